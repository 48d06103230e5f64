/** Memory that the kernel writes to past the page tables, where no tracker sees it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { type Ready, startTarget } from '../harness/target.js';

leakCheck();

interface RingReady extends Ready {
  absent?: string;
  /** Address in hex. */
  memory: string;
  bytes: number;
}

describe('a buffer that is registered with io_uring', () => {
  it('is as it was in the freeze, whatever the kernel read into it during rounds', async (context) => {
    await using target = await startTarget<RingReady>('ring');
    const { absent, memory, bytes } = target.info;
    if (absent !== undefined) context.skip(`no ${absent} here`);
    let over = false;
    const reading = (async () => {
      for (let byte = 2; !over; byte = (byte % 250) + 1) await target.check(`read ${byte}`);
    })();
    await using dump = await dumpOf(target.pid, { rounds: 4, after: 'stop' });
    over = true;
    const { held } = dump.result;
    const is = Buffer.alloc(bytes);
    const mem = openSync(`/proc/${target.pid}/mem`, 'r');
    try {
      readSync(mem, is, 0, bytes, BigInt(memory));
    } finally {
      closeSync(mem);
    }
    const stored = await dump.image.read(target.pid, BigInt(memory), bytes);
    await held?.resume();
    await reading;
    expect(Buffer.from(stored).equals(is)).toBe(true);
    expect(new Set(is).size).toBe(1);
    expect(is[0]).not.toBe(1);
  });
});
