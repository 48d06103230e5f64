/** However what CRIU itself wrote is damaged, reading it ends, and says so by errors of Sluice. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { openImage, SluiceError } from '@sluice/core';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { TempDir } from '../harness/temp.js';
import { Counter } from './counter.js';
import { criu } from './criu.js';

leakCheck();

const PAGES = 16;
const CODES = ['ERR_SLUICE_IMAGE_CORRUPT', 'ERR_SLUICE_IMAGE_VERSION', 'ERR_SLUICE_LEFT_OUT'];

/** A digest of all that is stored, or the code of the error; any other error fails the test. */
async function outcomeOf(dir: string): Promise<string> {
  try {
    await using image = await openImage(dir);
    await image.verify();
    const hash = createHash('sha256');
    for (const { pid } of image.processes) {
      for (const { address, pages } of image.runs(pid)) {
        hash.update(`${pid} ${address} ${pages}\n`);
        hash.update(await image.read(pid, address, pages * 4096));
      }
    }
    return hash.digest('hex');
  } catch (error) {
    if (!SluiceError.isSluiceError(error)) throw error;
    expect(CODES).toContain(error.code);
    return error.code;
  }
}

it('a directory of CRIU with a damaged file', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'shared', PAGES);
  const images = dir.join('images');
  mkdirSync(images);
  criu('dump', images, ['--tree', `${counter.pid}`, '--leave-stopped']);
  await using image = await openImage(images);
  const object = image.processes[0]?.vmas.find(({ kind }) => kind === 'shared-memory')?.inode;
  const whole = await outcomeOf(images);
  expect(CODES).not.toContain(whole);

  const { pid } = counter;
  const records = [`pagemap-${pid}.img`, `pagemap-shmem-${object}.img`, `mm-${pid}.img`];
  const names = [
    ...records,
    'inventory.img',
    'files.img',
    'memfd.img',
    'pages-1.img',
    'pages-2.img',
  ];
  const flips = fc.sample(fc.tuple(fc.nat(), fc.nat(7)), { seed: 1, numRuns: 6 });
  for (const name of names) {
    const path = `${images}/${name}`;
    const bytes = readFileSync(path);
    for (const length of [0, 3, 7, 10, bytes.length >> 1, bytes.length - 1]) {
      writeFileSync(path, bytes.subarray(0, length));
      expect(await outcomeOf(images), `${name} of ${length} bytes`).toBe(CODES[0]);
    }
    for (const [at, bit] of [...flips, [1, 0], [9, 3]] as const) {
      const changed = Buffer.from(bytes);
      changed[at % bytes.length] = (changed[at % bytes.length] ?? 0) ^ (1 << bit);
      writeFileSync(path, changed);
      // CRIU has no checksums: what still makes sense is read.
      const outcome = await outcomeOf(images);
      if (name.startsWith('pages-')) expect([whole, ...CODES]).not.toContain(outcome);
    }
    writeFileSync(path, bytes);
  }
  expect(await outcomeOf(images)).toBe(whole);
});
