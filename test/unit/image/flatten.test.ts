/** One image made of several; see chain_oracle.test.ts for chains of any make. */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { flattenImage, nativeCrc32c } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import { mountRefusal, SmallDisk } from '../../harness/temp.js';
import { below, own, smallMemory, writeSmallChain, writeTestChain } from './chain_support.js';
import {
  at,
  errorOf,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  SMALL_PID,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeSmallImage,
  writeTestImage,
} from './support.js';

const noMount = await mountRefusal();

async function smallChain(): Promise<{ dir: string; parent: string; out: string }> {
  const dir = await temporaryDir();
  await writeSmallChain(dir);
  const parent = await temporaryDir();
  return { dir, parent, out: join(parent, 'flat') };
}

describe('flattenImage()', () => {
  test('makes one image that reads the same', async () => {
    const { dir, out } = await smallChain();
    const before = await open(dir);
    const result = await flattenImage(dir, { dir: out });
    // Two pages of round 1 and one of round 2 are not in the final memory any more.
    const pages = 2 + 3 + 1 + 1 + 1;
    expect(result).toEqual({
      dir: out,
      pages_written: pages,
      bytes_written: pages * PAGE,
      images: 3,
    });
    await using image = await open(out);
    expect(smallMemory().equals(await image.read(SMALL_PID, SMALL_START, 12 * PAGE))).toBe(true);
    expect(await image.verify()).toMatchObject({ images: 1, shards: 1, pieces: 1 });
    const { processes, shards, ...about } = image.manifest;
    const { processes: _, shards: __, ...aboutBefore } = before.manifest;
    // It is as old, and of the same rounds, as what it was made of.
    expect(about).toEqual({ ...aboutBefore, parent: null, pieceBytes: 1024 * 1024 });
    expect(shards).toMatchObject([{ file: 'shard-0000.img', bytes: BigInt(pages * PAGE) }]);
    expect(processes).toMatchObject([{ pagesStored: pages, pagesInParent: 0 }]);
    expect(processes[0]?.threads).toEqual(before.processes[0]?.threads);
    expect((await readdir(out)).sort()).toEqual([
      'manifest.msgpack',
      'pages-77.tbl',
      'shard-0000.img',
    ]);
    for (const file of await readdir(out)) {
      expect((await stat(join(out, file))).mode & 0o777).toBe(0o600);
    }
    expect((await stat(out)).mode & 0o777).toBe(0o700);
    await before.close();
  });

  test('takes an image without a parent, and one that is live', async () => {
    const alone = await temporaryDir();
    await writeSmallImage(alone);
    const parent = await temporaryDir();
    await flattenImage(alone, { dir: join(parent, 'alone'), checksum: 'none' });
    {
      await using before = await open(alone);
      await using image = await open(join(parent, 'alone'));
      const bytes = 7 * PAGE;
      const expected = Buffer.from(await before.read(SMALL_PID, SMALL_START, bytes));
      expect(expected.equals(await image.read(SMALL_PID, SMALL_START, bytes))).toBe(true);
      expect(image.manifest).toMatchObject({ checksum: 'none', pieceBytes: 0 });
      // Three pages that are read, of which one is mapped twice: three of four that were stored.
      expect(image.manifest.shards.map(({ bytes }) => Number(bytes))).toEqual([2 * PAGE, PAGE]);
      expect(image.processes[0]).toMatchObject({ pagesStored: 4 });
    }
    const { dir } = await smallChain();
    await flattenImage(join(dir, 'round-0002'), { dir: join(parent, 'live') });
    await using before = await open(join(dir, 'round-0002'));
    await using image = await open(join(parent, 'live'));
    expect(image.manifest).toMatchObject({ consistency: 'live', parent: null, round: 2 });
    const expected = Buffer.from(await before.read(SMALL_PID, SMALL_START, 12 * PAGE));
    expect(expected.equals(await image.read(SMALL_PID, SMALL_START, 12 * PAGE))).toBe(true);
  });

  test('takes several processes that share pages, and an empty directory', async () => {
    const dir = await temporaryDir();
    const out = await temporaryDir();
    const shards = [pattern(4 * PAGE, 1)];
    const vmas = [vmaOf(SMALL_START, 12, { kind: 'shared-memory', shared: true })];
    const tables = [
      [own(0, 3, 0)],
      [own(1, 2, 1), own(5, 1, 0), own(6, 1, 3)],
      // Overlaps that are no record of anybody.
      [own(0, 2, 1), own(2, 2, 1)],
    ];
    const processes = tables.map((records, i) =>
      processOf({ pid: 77 + i, vmas, pageTable: pageTableOf(records) }),
    );
    await writeTestImage({ dir, shards, processes });
    const result = await flattenImage(dir, { dir: out });
    expect(result).toMatchObject({ pages_written: 4, images: 1 });
    await using before = await open(dir);
    await using image = await open(out);
    for (const { pid } of processes) {
      const expected = Buffer.from(await before.read(pid, SMALL_START, 12 * PAGE));
      expect(expected.equals(await image.read(pid, SMALL_START, 12 * PAGE))).toBe(true);
    }
  });

  test('spreads pages over shards, and checksums pieces that blocks do not fit', async () => {
    const dir = await temporaryDir();
    const pages = 1500;
    const data = pattern(pages * PAGE, 5);
    const vmas = [vmaOf(SMALL_START, pages)];
    const records = [below(0, pages - 1), own(pages - 1, 1, 0, 1)];
    await writeTestChain(dir, [
      { records: [own(0, pages, 0)], shards: [data], vmas },
      { records, vmas, shards: [new Uint8Array(), pattern(PAGE, 6), new Uint8Array()] },
    ]);
    const out = join(await temporaryDir(), 'flat');
    await flattenImage(dir, { dir: out });
    await using image = await open(out);
    const sizes = image.manifest.shards.map(({ bytes }) => Number(bytes) / PAGE);
    expect(sizes).toEqual([500, 500, 500]);
    expect(await image.verify()).toMatchObject({ pieces: 6 });
    const expected = Buffer.concat([data.subarray(0, -PAGE), pattern(PAGE, 6)]);
    expect(expected.equals(await image.read(SMALL_PID, SMALL_START, pages * PAGE))).toBe(true);
    const [first, ...others] = [...image.runs(SMALL_PID)];
    expect(others).toHaveLength(2 + 1);
    expect(first).toMatchObject({ address: at(0) });
  });

  test('stores nothing of an image that has nothing', async () => {
    const dir = await temporaryDir();
    await writeTestImage({ dir, processes: [processOf({ vmas: [vmaOf(SMALL_START, 2)] })] });
    const out = join(await temporaryDir(), 'flat');
    expect(await flattenImage(dir, { dir: out })).toMatchObject({ pages_written: 0 });
    await using image = await open(out);
    expect(await image.read(SMALL_PID, SMALL_START, 1)).toEqual(new Uint8Array(1));
  });
});

describe('flattenImage() leaves nothing', () => {
  test('if a page that it copies is damaged', async () => {
    const { dir, parent, out } = await smallChain();
    const path = join(dir, 'round-0001', 'shard-0000.img');
    const bytes = await readFile(path);
    bytes[8 * PAGE + 9] = ~(bytes[8 * PAGE + 9] ?? 0);
    await writeFile(path, bytes);
    const error = await errorOf(flattenImage(dir, { dir: out }));
    const damage = { code: 'ERR_SLUICE_IMAGE_CORRUPT', file: path, offset: 8 * PAGE };
    expect(error).toMatchObject(damage);
    expect(await readdir(parent)).toEqual([]);
  });

  test('if it is aborted, before or meanwhile', async () => {
    const { dir, parent, out } = await smallChain();
    const aborted = flattenImage(dir, { dir: out, signal: AbortSignal.abort('enough') });
    expect(await errorOf(aborted)).toMatchObject({ name: 'AbortError', cause: 'enough' });
    expect(await readdir(parent)).toEqual([]);
    for (const calls of [1, 8, 12, 14]) {
      const controller = new AbortController();
      let called = 0;
      // The checksum is where the work can be watched.
      const crc32c = (bytes: Uint8Array, seed: number): number => {
        called += 1;
        if (called === calls) controller.abort('enough');
        return nativeCrc32c(bytes, seed);
      };
      const { signal } = controller;
      const error = await errorOf(flattenImage(dir, { dir: out, signal, crc32c }));
      expect(error).toMatchObject({ name: 'AbortError', cause: 'enough' });
      expect(await readdir(parent)).toEqual([]);
    }
  });

  test('if the disk gets full', async (ctx) => {
    if (noMount !== undefined) ctx.skip(noMount);
    const dir = await temporaryDir();
    const pages = 600;
    const records = [own(0, pages, 0)];
    const vmas = [vmaOf(SMALL_START, pages)];
    await writeTestChain(dir, [
      { records, vmas, shards: [pattern(pages * PAGE, 1)] },
      { records: [below(0, pages)], vmas },
    ]);
    await using disk = new SmallDisk(1 << 20);
    const error = await errorOf(flattenImage(dir, { dir: disk.join('flat') }));
    expect(error).toMatchObject({
      code: 'ERR_SLUICE_DISK_FULL',
      file: disk.join('flat', 'shard-0000.img'),
    });
    expect(await readdir(disk.path)).toEqual([]);
  });

  test('and takes nothing away from a directory that is in use', async () => {
    const { dir } = await smallChain();
    const used = await temporaryDir();
    await writeFile(join(used, 'notes'), '');
    const taken = await errorOf(flattenImage(dir, { dir: used }));
    expect(taken).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS', file: used });
    const itself = await errorOf(flattenImage(dir, { dir }));
    expect(itself).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS' });
    expect(await readdir(used)).toEqual(['notes']);
    await using image = await open(dir);
    expect(await image.verify()).toMatchObject({ images: 3 });
  });

  test.each([
    [{ dir: '' }, 'ERR_SLUICE_OPTION'],
    [{ dir: 'a\0b' }, 'ERR_SLUICE_OPTION'],
    [{}, 'ERR_SLUICE_OPTION'],
    [{ dir: '/tmp/x', checksum: 'md5' }, 'ERR_SLUICE_OPTION'],
    [{ dir: '/proc/x' }, 'ERR_SLUICE_OUTPUT_NOT_WRITABLE'],
  ])('with %j', async (options, code) => {
    const { dir } = await smallChain();
    const error = await errorOf(flattenImage(dir, options as { dir: string }));
    expect(error).toMatchObject({ code });
  });

  test('of a source that is none', async () => {
    const { dir, parent, out } = await smallChain();
    const gone = await errorOf(flattenImage(join(dir, 'gone'), { dir: out }));
    expect(gone).toMatchObject({ code: 'ERR_SLUICE_IMAGE_NOT_FOUND' });
    expect(await readdir(parent)).toEqual([]);
  });
});
