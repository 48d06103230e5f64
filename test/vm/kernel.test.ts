/** What an older kernel has and lacks is found out, and dumps there are as exact as elsewhere. */
import { writeFileSync } from 'node:fs';
import { inspectSystem } from '@sluice/core';
import { expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { whileStopped } from '../harness/oracle.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { softDirtyPages } from './soft_dirty.js';

leakCheck();

it('the kernel keeps soft-dirty bits', async () => {
  await using target = await startTarget('writer', ['8', '1']);
  await whileStopped(target.pid, async () => {
    expect(softDirtyPages(target.pid).size).toBeGreaterThan(0);
    writeFileSync(`/proc/${target.pid}/clear_refs`, '4');
    expect(softDirtyPages(target.pid).size).toBe(0);
  });
  await target.check();
  await whileStopped(target.pid, async () => {
    expect(softDirtyPages(target.pid).size).toBeGreaterThan(0);
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
  expect(checks.find(({ name }) => name === 'tracker')?.detail).toMatch(/^soft-dirty; not uffd-wp/);
});

it('the image equals the frozen memory', async () => {
  await using dir = new TempDir();
  await using target = await startTarget('mappings', [dir.path]);
  await whileStopped(target.pid, async (memory) => {
    await using dump = await dumpOf(target.pid, { rounds: 0 });
    expect((await memory.compare(dump.image)).bytes).toBeGreaterThan(100_000n);
    await dump.image.verify();
  });
  await target.check();
});
