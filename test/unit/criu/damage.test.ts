/** However a directory of CRIU's images is damaged, reading it ends, and says so by its own errors. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '@sluice/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { open, PAGE, pattern, temporaryDir } from '../image/support.js';
import {
  ANON,
  ANON_SHARED,
  entry,
  inventory,
  MEMFD_SHARED,
  memfds,
  mm,
  PARENT,
  pagemap,
  u32,
  writeFiles,
} from './support.js';

const START = 0x5500_0000_0000n;
const at = (page: number) => START + BigInt(page * PAGE);
const METADATA = [
  'inventory.img',
  'pagemap-9.img',
  'pagemap-shmem-55.img',
  'mm-9.img',
  'files.img',
  'memfd.img',
];

/** With all that is read, and a parent. */
async function makeImages(): Promise<string> {
  const dir = await temporaryDir();
  await writeFiles(join(dir, 'old'), {
    'inventory.img': inventory(3n),
    'pagemap-9.img': pagemap(1, [entry(at(0), 3)]),
    'pages-1.img': pattern(3 * PAGE, 1),
  });
  const files = {
    'inventory.img': inventory(5n),
    'pagemap-9.img': pagemap(1, [entry(at(0), 2, PARENT), entry(at(2), 1), entry(at(6), 1)]),
    'pages-1.img': pattern(2 * PAGE, 2),
    'pagemap-shmem-55.img': pagemap(2, [entry(0n, 2)]),
    'pages-2.img': pattern(2 * PAGE, 3),
    'mm-9.img': mm([
      { start: at(0), pages: 8, status: ANON },
      { start: at(8), pages: 2, status: ANON_SHARED, shared: true, id: 55 },
      { start: at(10), pages: 2, status: MEMFD_SHARED, shared: true, id: 2 },
    ]),
    ...memfds({ file: 2, inode: 1, object: 55, name: '/dev/zero' }),
  };
  return writeFiles(join(dir, 'new'), files, '../old');
}

/** Reads everything; the code of the error, or undefined. Any other error fails the test. */
async function useImages(dir: string): Promise<string | undefined> {
  try {
    await using image = await open(dir);
    await image.verify();
    for (const { pid } of image.processes) {
      for (const { address, pages } of image.runs(pid)) {
        // What a damaged pagemap still may claim is no more than the pages files have.
        expect(pages).toBeLessThanOrEqual(4);
        await image.read(pid, address, pages * PAGE);
      }
    }
    return undefined;
  } catch (error) {
    if (!SluiceError.isSluiceError(error)) throw error;
    expect(error.file).toBeDefined();
    return error.code;
  }
}

test('every truncation is found', async () => {
  const dir = await makeImages();
  expect(await useImages(dir)).toBeUndefined();
  for (const name of await readdir(dir)) {
    if (name === 'parent') continue;
    const path = join(dir, name);
    const whole = await readFile(path);
    const step = name.startsWith('pages-') ? PAGE / 2 : 1;
    for (let bytes = 0; bytes < whole.length; bytes += step) {
      await writeFile(path, whole.subarray(0, bytes));
      const code = await useImages(dir);
      expect(code, `${name} ${bytes}`).toBe('ERR_SLUICE_IMAGE_CORRUPT');
    }
    await writeFile(path, whole);
  }
  expect(await useImages(dir)).toBeUndefined();
});

test('any changed bytes end in an image or an error', async () => {
  const dir = await makeImages();
  const wholes = new Map<string, Buffer>();
  for (const name of METADATA) wholes.set(name, await readFile(join(dir, name)));
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...METADATA),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      async (name, changes) => {
        const whole = wholes.get(name) ?? Buffer.alloc(0);
        const changed = Buffer.from(whole);
        for (const [place, value] of changes) changed[place % changed.length] = value;
        await writeFile(join(dir, name), changed);
        const code = await useImages(dir);
        await writeFile(join(dir, name), whole);
        const known = [undefined, 'ERR_SLUICE_IMAGE_CORRUPT', 'ERR_SLUICE_IMAGE_VERSION'];
        expect(known).toContain(code === 'ERR_SLUICE_LEFT_OUT' ? undefined : code);
      },
    ),
    { numRuns: 2000 },
  );
});

test('no memory is taken for what a file only claims', async () => {
  const dir = await makeImages();
  const before = process.memoryUsage().arrayBuffers;
  for (const bytes of [2 ** 31, 2 ** 32 - 1, 2 ** 20 + 1]) {
    for (const [name, magics] of [
      ['inventory.img', [0x58313116]],
      ['pagemap-9.img', [0x54564319, 0x56084025]],
      ['mm-9.img', [0x54564319, 0x57492820]],
      ['files.img', [0x54564319, 0x56303138]],
      ['memfd.img', [0x54564319, 0x48453499]],
    ] as const) {
      const whole = await readFile(join(dir, name));
      await writeFile(join(dir, name), u32(...magics, bytes, 1, 2, 3));
      expect(await useImages(dir), name).toBe('ERR_SLUICE_IMAGE_CORRUPT');
      await writeFile(join(dir, name), whole);
    }
  }
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
});

test('a directory without a process is no image', async () => {
  const dir = await temporaryDir();
  await writeFiles(dir, { 'inventory.img': inventory(3n) });
  expect(await useImages(dir)).toBe('ERR_SLUICE_IMAGE_CORRUPT');
});

test('what mappings repeat of shared memory is bounded by what the files hold', async () => {
  const pages = 200;
  const all = Array.from({ length: pages }, (_, i) => entry(BigInt(2 * i * PAGE), 1));
  const areas = Array.from({ length: 20_000 }, (_, i) => ({
    start: START + BigInt(2 * i * pages * PAGE),
    pages: 2 * pages,
    status: ANON_SHARED,
    shared: true,
    id: 55,
  }));
  const makeWith = async (mapped: typeof areas) => {
    const dir = await temporaryDir();
    return writeFiles(dir, {
      'inventory.img': inventory(5n),
      'pagemap-9.img': pagemap(1, []),
      'pages-1.img': new Uint8Array(),
      'pagemap-shmem-55.img': pagemap(2, all),
      'pages-2.img': pattern(pages * PAGE, 3),
      'mm-9.img': mm(mapped),
    });
  };
  // As a process may have it.
  expect(await useImages(await makeWith(areas.slice(0, 100)))).toBeUndefined();
  const error = await open(await makeWith(areas)).catch((caught: unknown) => caught);
  expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
  expect(String(error)).toContain('mapped too often');
});

test('fields that nobody knows take no memory', async () => {
  const dir = await makeImages();
  const unknown = Buffer.alloc(2 ** 22, Buffer.from([0x68, 0]));
  const whole = mm([{ start: at(0), pages: 12, status: ANON }]);
  const record = Buffer.concat([whole.subarray(12), unknown]);
  await writeFile(
    join(dir, 'mm-9.img'),
    Buffer.concat([u32(0x54564319, 0x57492820), u32(record.length), record]),
  );
  const before = process.resourceUsage().maxRSS;
  expect(await useImages(dir)).toBeUndefined();
  expect(process.resourceUsage().maxRSS - before).toBeLessThan(64 * 1024);
});
