/** The harness itself: what it is to notice, it does notice. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { type StoppedMemory, whileStopped } from '../harness/oracle.js';
import { wordAt } from '../harness/pattern.js';
import { stateOf } from '../harness/procfs.js';
import { startStranger, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

interface Region {
  name: string;
  start: string;
  bytes: number;
}

describe('the comparison', () => {
  it('notices a byte that differs, and a mapping', async () => {
    await using target = await startTarget<{ pid: number; memory: string }>('churn', ['still']);
    const { pid, info } = target;
    await using dump = await dumpOf(pid);
    await whileStopped(pid, async (memory) => {
      await memory.compare(dump.image);
      const address = BigInt(info.memory) + 12_345n;
      flipStopped(pid, memory, address);
      await expect(memory.compare(dump.image)).rejects.toThrow();
      flipStopped(pid, memory, address);
      await memory.compare(dump.image);
    });
    await using other = await startTarget('churn', ['still']);
    await using image = await dumpOf(other.pid);
    await whileStopped(pid, async (memory) => {
      await expect(memory.compare(image.image)).rejects.toThrow('does not hold');
    });
  });

  it('notices pages that the image lacks', async () => {
    await using dir = new TempDir();
    await using target = await startTarget<{ pid: number; regions: Region[] }>('mappings', [
      dir.path,
    ]);
    await using dump = await dumpOf(target.pid);
    // Holes in the image, pages in the process: one in a large and sparse mapping, too.
    for (const name of ['sparse-1g', 'anonymous']) {
      const region = target.info.regions.find((candidate) => candidate.name === name);
      if (region === undefined) throw new Error(`No region ${name}`);
      const hole = BigInt(region.start) + 4096n * 4n;
      await whileStopped(target.pid, async (memory) => {
        flipStopped(target.pid, memory, hole);
        await expect(memory.compare(dump.image)).rejects.toThrow();
        flipStopped(target.pid, memory, hole);
      });
    }
  });
});

describe('test targets', () => {
  it('notice memory that was changed', async () => {
    await using dir = new TempDir();
    await using target = await startTarget<{ pid: number; regions: Region[] }>('mappings', [
      dir.path,
    ]);
    await target.check();
    for (const name of ['anonymous', 'prot-none', 'shared', 'memfd', 'file-private', 'sysv']) {
      const region = target.info.regions.find((candidate) => candidate.name === name);
      if (region === undefined) throw new Error(`No region ${name}`);
      await flip(target.pid, BigInt(region.start));
      await expect(target.check(), name).rejects.toThrow(`${name}: page 0 byte 0`);
      await flip(target.pid, BigInt(region.start));
    }
    await target.check();
  });

  it('notice system calls that end early', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('threads64', [dir.path]);
    expect(target.info.threads).toBeGreaterThanOrEqual(64);
    await target.check();
    {
      await using tracer = await startTarget('tracer', [String(target.pid)]);
      await tracer.command('interrupt 3');
    }
    // Plain ptrace does what Sluice must not do.
    await expect(target.check()).rejects.toThrow('epoll_wait: EINTR');
    await whileStopped(target.pid, async () => undefined);
    await target.check('check stopped');
    await target.check();
  });

  it('of other parents are no children of ours', async () => {
    await using target = await startStranger('churn', ['still']);
    await target.check();
    const before = viewOf(target.pid);
    expect(before.status.PPid).not.toBe(String(process.pid));
    await assertUntouched(target.pid, before);
  });

  it('are stopped and go on', async () => {
    await using target = await startTarget('churn', ['still']);
    const before = viewOf(target.pid);
    await whileStopped(target.pid, async () => {
      expect(stateOf(target.pid)).toBe('T');
      await expect(assertUntouched(target.pid, before)).rejects.toThrow();
    });
    await target.check();
  });

  it('fill memory by the same rule as the tests', async () => {
    await using target = await startTarget<{ pid: number; memory: string }>('churn', ['still']);
    await whileStopped(target.pid, async (memory) => {
      const at = BigInt(target.info.memory);
      const word = memory.read(at + 4096n, 8)?.readBigUInt64LE();
      expect(word).toBe(wordAt(at + 4096n, 1n));
    });
  });
});

async function flip(pid: number, address: bigint): Promise<void> {
  await whileStopped(pid, async (memory) => flipStopped(pid, memory, address));
}

/** Changes one bit of a stopped process. */
function flipStopped(pid: number, memory: StoppedMemory, address: bigint): void {
  const byte = memory.read(address, 1)?.[0] ?? 0;
  const mem = openSync(`/proc/${pid}/mem`, 'r+');
  writeSync(mem, Buffer.from([byte ^ 1]), 0, 1, Number(address));
  closeSync(mem);
}
