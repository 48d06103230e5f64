/** What an older kernel has and lacks is found out, and dumps there are as exact as elsewhere. */
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { inspectSystem } from '@sluice/core';
import { expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { whileStopped } from '../harness/oracle.js';
import { readMappings } from '../harness/procfs.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';

leakCheck();

/** Bit of an entry of /proc/PID/pagemap. */
const SOFT_DIRTY = 1n << 55n;

/** Pages of a process that were written since its soft-dirty bits were cleared. */
function softDirtyPages(pid: number): number {
  const pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    let pages = 0;
    for (const { start, end, path } of readMappings(pid)) {
      if (path.startsWith('[v')) continue;
      const entries = Buffer.alloc(Number((end - start) / 4096n) * 8);
      expect(readSync(pagemap, entries, 0, entries.length, (start / 4096n) * 8n)).toBe(
        entries.length,
      );
      for (let at = 0; at < entries.length; at += 8) {
        if ((entries.readBigUInt64LE(at) & SOFT_DIRTY) !== 0n) pages++;
      }
    }
    return pages;
  } finally {
    closeSync(pagemap);
  }
}

it('the kernel keeps soft-dirty bits', async () => {
  await using target = await startTarget('writer', ['8', '1']);
  await whileStopped(target.pid, async () => {
    expect(softDirtyPages(target.pid)).toBeGreaterThan(0);
    writeFileSync(`/proc/${target.pid}/clear_refs`, '4');
    expect(softDirtyPages(target.pid)).toBe(0);
  });
  await target.check();
  await whileStopped(target.pid, async () => {
    expect(softDirtyPages(target.pid)).toBeGreaterThan(0);
  });
});

it('inspectSystem() tells of what the kernel has not yet', () => {
  const { release, ok, checks } = inspectSystem();
  expect(release).toMatch(/^6\.1\./);
  expect(ok).toBe(true);
  const found = Object.fromEntries(checks.map(({ name, ok }) => [name, ok]));
  expect(found).toMatchObject({
    ptraceSeize: true,
    pagemap: true,
    softDirty: true,
    pagemapScan: false,
    uffdWpAsync: false,
  });
});

it.each(['vmsplice', 'read'] as const)(
  'the image equals the frozen memory (%s)',
  async (capture) => {
    await using dir = new TempDir();
    await using target = await startTarget('mappings', [dir.path]);
    await whileStopped(target.pid, async (memory) => {
      await using dump = await dumpOf(target.pid, { capture, rounds: 0 });
      expect((await memory.compare(dump.image)).bytes).toBeGreaterThan(100_000n);
      await dump.image.verify();
    });
    await target.check();
  },
);
