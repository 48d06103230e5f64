/** What goes wrong with a pre-dump, and what it leaves. */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { relative } from 'node:path';
import { AbortError, diffImages, type SluiceError } from '@sluice/core';
import { expect, it } from 'vitest';
import { withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess, preDumpProcess } from '../harness/patient.js';
import { SmallDisk, TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { Counter } from './counter.js';

leakCheck();

const PAGES = 512;
const BEGIN_AGAIN = /begin again without a parent$/;

async function failureOf(work: Promise<unknown>): Promise<SluiceError> {
  return work.then(
    () => {
      throw new Error('It did not fail');
    },
    (error: SluiceError) => error,
  );
}

it('holds the memory of a process that stands still', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'plain', PAGES);
  await counter.stop();
  const imagesDir = dir.join('1');
  const { pages_written } = await preDumpProcess(counter.pid, { imagesDir });
  expect(pages_written).toBeGreaterThan(PAGES);
  expect(readdirSync(imagesDir).sort()).toEqual([
    'inventory.img',
    `pagemap-${counter.pid}.img`,
    'pages-1.img',
    'stats-dump',
  ]);
  await dumpProcess(counter.pid, { dir: dir.join('image'), rounds: 0 });
  const { processes } = await diffImages(dir.join('image'), imagesDir);
  // The restartable sequence of a thread says on which CPU it was last.
  const [{ pages_differing, pages_only_in_b } = { pages_differing: 9, pages_only_in_b: 9 }] =
    processes;
  expect(pages_differing).toBeLessThanOrEqual(1);
  expect(pages_only_in_b).toBe(0);
});

it('a disk that is too small is noticed before marks are reset', async () => {
  await using dir = new TempDir();
  await using disk = new SmallDisk(1024 * 1024);
  await using counter = await Counter.start(dir, 'plain', PAGES);
  await preDumpProcess(counter.pid, { imagesDir: dir.join('1') });
  await counter.check();
  const imagesDir = disk.join('2');
  const before = viewOf(counter.pid);
  const prevImagesDir = relative(imagesDir, dir.join('1'));
  const failure = await failureOf(preDumpProcess(counter.pid, { imagesDir, prevImagesDir }));
  expect(failure).toMatchObject({ code: 'ERR_SLUICE_DISK_FULL', thawed: true });
  expect(failure.message).not.toMatch(BEGIN_AGAIN);
  expect(existsSync(imagesDir)).toBe(false);
  await assertUntouched(counter.pid, before, { busy: true });
  // So the parent is as good as before.
  mkdirSync(dir.join('3'));
  await counter.dump(dir.join('3'), ['--track-mem', '--prev-images-dir', '../1']);
  counter.restore(dir.join('3'));
  await counter.check();
});

it('a failure after that says what follows from it', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'plain', PAGES);
  await preDumpProcess(counter.pid, { imagesDir: dir.join('1') });
  await counter.check();
  const before = viewOf(counter.pid);
  const options = { imagesDir: dir.join('2'), prevImagesDir: '../1' };
  const failure = await withFaults([{ call: 'splice', errno: 'ENOSPC' }], () =>
    failureOf(preDumpProcess(counter.pid, options)),
  );
  expect(failure).toMatchObject({ code: 'ERR_SLUICE_DISK_FULL', thawed: true });
  expect(failure.message).toMatch(BEGIN_AGAIN);
  expect(existsSync(options.imagesDir)).toBe(false);
  await assertUntouched(counter.pid, before, { busy: true });
});

it('a signal ends it at any moment, and nothing is left', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'threads', PAGES);
  const before = viewOf(counter.pid);
  for (const delayMs of [0, 500, 1000, 1500, 2000]) {
    const imagesDir = dir.join('1');
    const signal = AbortSignal.timeout(delayMs);
    const ended = await preDumpProcess(counter.pid, { imagesDir, signal }).catch((error) => error);
    if (!(ended instanceof AbortError)) break;
    expect(existsSync(imagesDir)).toBe(false);
    await assertUntouched(counter.pid, before, { busy: true });
  }
  await counter.check();
});
