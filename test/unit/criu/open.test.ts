/** Directories as CRIU writes them, read as images. */
import { mkdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { flattenImage, nativeCrc32c } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import { errorOf, open, PAGE, pattern, temporaryDir } from '../image/support.js';
import {
  ANON,
  ANON_SHARED,
  entry,
  FILE_PRIVATE,
  GUARD,
  image,
  inventory,
  LAZY,
  MEMFD_SHARED,
  memfds,
  message,
  mm,
  oldEntry,
  PARENT,
  PRESENT,
  pagemap,
  VVAR,
  writeFiles,
} from './support.js';

const PID = 9;
const START = 0x7f00_0000_0000n;
const at = (page: number) => START + BigInt(page * PAGE);
const DATA = pattern(8 * PAGE, 1);
const pagesOf = (...pages: number[]) =>
  Buffer.concat(pages.map((page) => DATA.subarray(page * PAGE, (page + 1) * PAGE)));

async function readPages(dir: string, page: number, pages: number): Promise<Buffer> {
  await using image = await open(dir);
  return Buffer.from(await image.read(PID, at(page), pages * PAGE));
}

describe('openImage() of a directory of CRIU', () => {
  test.each([
    ['3.17', oldEntry],
    ['4.2', entry],
  ])('takes what CRIU %s writes', async (_, make) => {
    const dir = await writeFiles(await temporaryDir(), {
      'inventory.img': inventory(5n),
      [`pagemap-${PID}.img`]: pagemap(3, [make(at(0), 2), make(at(2), 1), make(at(5), 1)]),
      'pages-3.img': pagesOf(0, 1, 2, 3),
    });
    expect((await readPages(dir, 0, 3)).equals(pagesOf(0, 1, 2))).toBe(true);
    expect((await readPages(dir, 5, 1)).equals(pagesOf(3))).toBe(true);
    const error = await errorOf(readPages(dir, 3, 1));
    expect(error.code).toBe('ERR_SLUICE_NOT_MAPPED');
    await using image = await open(dir);
    expect(image.processes).toMatchObject([{ pid: PID, pagesStored: 4, vmas: [{}, {}] }]);
    expect(image.manifest.producer).toEqual({ name: 'CRIU', version: 'img_version 0' });
    expect(await image.verify()).toMatchObject({ images: 1, shards: 1, checksum: 'none' });
  });

  test('takes what the oldest CRIU wrote, which knew no flags', async () => {
    const parent = { 'pagemap-9.img': pagemap(1, [oldEntry(at(1), 1)]), 'pages-1.img': pagesOf(7) };
    const dir = await temporaryDir();
    await writeFiles(join(dir, 'one'), parent);
    const entries = [message([1, at(0)], [2, 1]), message([1, at(1)], [2, 1], [3, 1])];
    const files = { 'pagemap-9.img': pagemap(1, entries), 'pages-1.img': pagesOf(0) };
    await writeFiles(join(dir, 'two'), files, '../one');
    expect((await readPages(join(dir, 'two'), 0, 2)).equals(pagesOf(0, 7))).toBe(true);
  });

  test('follows parents, newest page first', async () => {
    const dir = await temporaryDir();
    await writeFiles(join(dir, '1'), {
      'pagemap-9.img': pagemap(1, [entry(at(0), 4)]),
      'pages-1.img': pagesOf(0, 1, 2, 3),
    });
    await writeFiles(
      join(dir, '2'),
      {
        'pagemap-9.img': pagemap(1, [
          entry(at(0), 1, PARENT),
          entry(at(1), 1),
          entry(at(2), 2, PARENT),
        ]),
        'pages-1.img': pagesOf(5),
      },
      '../1',
    );
    await writeFiles(
      join(dir, '3'),
      {
        'pagemap-9.img': pagemap(1, [entry(at(0), 3, PARENT), entry(at(3), 1)]),
        'pages-1.img': pagesOf(6),
      },
      '../2',
    );
    const expected = pagesOf(0, 5, 2, 6);
    expect((await readPages(join(dir, '3'), 0, 4)).equals(expected)).toBe(true);
    await using image = await open(join(dir, '3'));
    expect(image.chain.map(({ manifest }) => manifest.round)).toEqual([3, 2, 1]);
    expect(image.processes[0]).toMatchObject({ pagesStored: 1, pagesInParent: 3 });
    // It is an image like others, so it can become one of Sluice's own.
    const flat = join(dir, 'flat');
    await flattenImage(join(dir, '3'), { dir: flat, crc32c: nativeCrc32c });
    expect((await readPages(flat, 0, 4)).equals(expected)).toBe(true);
  });

  test('reads what is shared now and was private in the parent', async () => {
    const dir = await temporaryDir();
    await writeFiles(join(dir, 'old'), {
      'pagemap-9.img': pagemap(1, [entry(at(0), 6)]),
      'pages-1.img': pagesOf(0, 1, 2, 3, 4, 5),
      'pagemap-shmem-55.img': pagemap(2, [entry(0n, 2)]),
      'pages-2.img': pagesOf(6, 7),
    });
    const files = {
      'pagemap-9.img': pagemap(1, [entry(at(0), 2, PARENT), entry(at(4), 2, PARENT)]),
      'pages-1.img': pagesOf(),
      'pagemap-shmem-55.img': pagemap(2, [entry(0n, 1, PARENT), entry(BigInt(PAGE), 1)]),
      'pages-2.img': pagesOf(3),
      'mm-9.img': mm([
        { start: at(0), pages: 2, status: ANON },
        { start: at(2), pages: 2, status: ANON_SHARED, shared: true, id: 55 },
        { start: at(4), pages: 2, status: ANON },
      ]),
    };
    await writeFiles(join(dir, 'new'), files, '../old');
    const expected = pagesOf(0, 1, 6, 3, 4, 5);
    expect((await readPages(join(dir, 'new'), 0, 6)).equals(expected)).toBe(true);
  });

  test('knows mappings, shared memory and what is left out', async () => {
    const dir = await writeFiles(await temporaryDir(), {
      'pagemap-9.img': pagemap(1, [entry(at(0), 1), entry(at(1), 1, LAZY), entry(at(20), 1)]),
      'pages-1.img': pagesOf(0, 1),
      // Object pages 1 and 3; pages 1 to 4 of the object are mapped, and page 3 once more.
      'pagemap-shmem-55.img': pagemap(2, [
        entry(BigInt(PAGE), 1),
        entry(BigInt(3 * PAGE), 1, PRESENT | LAZY),
      ]),
      'pages-2.img': pagesOf(4, 5),
      'mm-9.img': mm([
        { start: at(0), pages: 4, status: ANON },
        { start: at(10), pages: 4, status: ANON_SHARED, shared: true, offset: PAGE, id: 55 },
        { start: at(14), pages: 1, status: ANON_SHARED, shared: true, offset: 3 * PAGE, id: 55 },
        { start: at(20), pages: 2, status: FILE_PRIVATE },
        { start: at(30), pages: 1, status: VVAR },
        { start: at(2), pages: 1, status: GUARD },
      ]),
    });
    expect((await readPages(dir, 0, 1)).equals(pagesOf(0))).toBe(true);
    expect((await readPages(dir, 2, 2)).equals(Buffer.alloc(2 * PAGE))).toBe(true);
    const shared = Buffer.concat([
      pagesOf(4),
      Buffer.alloc(PAGE),
      pagesOf(5),
      Buffer.alloc(PAGE),
      pagesOf(5),
    ]);
    expect((await readPages(dir, 10, 5)).equals(shared)).toBe(true);
    expect((await readPages(dir, 20, 1)).equals(pagesOf(1))).toBe(true);
    for (const page of [1, 21, 30]) {
      expect(await errorOf(readPages(dir, page, 1))).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
    }
    expect(await errorOf(readPages(dir, 4, 1))).toMatchObject({ code: 'ERR_SLUICE_NOT_MAPPED' });
  });
});

describe('memory that is shared, which CRIU stores as that of memfds,', () => {
  const files = {
    'pagemap-9.img': pagemap(1, [entry(at(0), 1)]),
    'pages-1.img': pagesOf(0),
    'pagemap-shmem-55.img': pagemap(2, [entry(BigInt(PAGE), 1)]),
    'pages-2.img': pagesOf(4),
    'pagemap-shmem-56.img': pagemap(3, [entry(0n, 2)]),
    'pages-3.img': pagesOf(5, 6),
    'mm-9.img': mm([
      { start: at(0), pages: 1, status: ANON },
      { start: at(10), pages: 3, status: MEMFD_SHARED, shared: true, id: 3 },
      { start: at(20), pages: 1, status: MEMFD_SHARED, shared: true, id: 4, offset: PAGE },
      { start: at(30), pages: 1, status: FILE_PRIVATE | (1 << 14), id: 4 },
    ]),
  };
  const zero = { file: 3, inode: 1, object: 55, name: '/dev/zero' };
  const named = { file: 4, inode: 2, object: 56, name: 'a\nb' };

  test('is found by way of the file and its inode', async () => {
    const dir = await writeFiles(await temporaryDir(), { ...files, ...memfds(zero, named) });
    const zeros = Buffer.alloc(PAGE);
    const expected = Buffer.concat([zeros, pagesOf(4), zeros]);
    expect((await readPages(dir, 10, 3)).equals(expected)).toBe(true);
    expect((await readPages(dir, 20, 1)).equals(pagesOf(6))).toBe(true);
    expect(await errorOf(readPages(dir, 30, 1))).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
    await using image = await open(dir);
    expect(image.processes[0]?.vmas.slice(1)).toMatchObject([
      { kind: 'shared-memory', path: '/dev/zero (deleted)', inode: 55n },
      { kind: 'shared-memory', path: '/memfd:a\\012b (deleted)', inode: 56n },
      { kind: 'private-file', path: '' },
    ]);
  });

  test.each(['files.img', 'memfd.img'] as const)('is left out without %s', async (missing) => {
    const { [missing]: _, ...others } = memfds(zero, named);
    const dir = await writeFiles(await temporaryDir(), { ...files, ...others });
    expect((await readPages(dir, 0, 1)).equals(pagesOf(0))).toBe(true);
    expect(await errorOf(readPages(dir, 10, 1))).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
  });

  const good = memfds(zero, named);
  const ofOne = memfds(zero);
  // Where the records of `named` are.
  const ofSecond = { file: ofOne['files.img'].length, inode: ofOne['memfd.img'].length };
  const longName = memfds({ ...named, name: 'x'.repeat(8192) });
  const noInode = message([1, 18], [2, 3], [20, message([1, 3])]);
  const noObject = message([1, Buffer.from('x')], [7, 1]);
  test.each<[string, Partial<typeof good>, string, number, RegExp]>([
    ['a file that is not there', ofOne, 'mm-9.img', 8, /memfd 4, which files\.img has not/],
    [
      'an inode that is not there',
      { 'memfd.img': ofOne['memfd.img'] },
      'files.img',
      ofSecond.file,
      /memfd 2/,
    ],
    [
      'a file twice',
      memfds(zero, { ...named, file: 3 }),
      'files.img',
      ofSecond.file,
      /second memfd 3/,
    ],
    [
      'an inode twice',
      memfds(zero, { ...named, inode: 1 }),
      'memfd.img',
      ofSecond.inode,
      /second memfd 1/,
    ],
    [
      'a file without inode',
      { 'files.img': image([0x54564319, 0x56303138], [noInode]) },
      'files.img',
      8,
      /memfd_file_entry without inode_id/,
    ],
    [
      'an inode without object',
      { 'memfd.img': image([0x54564319, 0x48453499], [noObject]) },
      'memfd.img',
      8,
      /memfd_inode_entry without shmid/,
    ],
    ['a name too long', { 'memfd.img': longName['memfd.img'] }, 'memfd.img', 8, /record of 8/],
  ])('is damaged by %s', async (_, damaged, name, offset, what) => {
    const dir = await writeFiles(await temporaryDir(), { ...files, ...good, ...damaged });
    const error = await errorOf(open(dir));
    const file = join(dir, name);
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file, offset });
    expect(error.message).toMatch(what);
  });
});

describe('openImage() names what is wrong with', () => {
  const good = [entry(at(0), 2)];
  const head = 8 + 4 + 2;
  const second = head + 4 + (good[0]?.length ?? 0);
  test.each<[string, Uint8Array[], number, RegExp]>([
    ['no head', [], 8, /ends before its head/],
    ['an entry out of order', [...good, entry(at(1), 1)], second, /overlaps/],
    ['an entry without pages', [...good, entry(at(5), 0)], second, /no pages/],
    ['counts that differ', [message([1, at(0)], [2, 1], [4, 4], [5, 2])], head, /2 pages, or of 1/],
    ['too many pages', [entry(at(0), 2 ** 33)], head, /pages/],
    ['pages after the last address', [entry(2n ** 64n - 4096n, 2)], head, /beyond/],
    ['half a page', [entry(at(0) + 1n, 1)], head, /not of a page/],
    ['pages here and in the parent', [entry(at(0), 1, PRESENT | PARENT)], head, /both/],
    ['pages that are nowhere', [entry(at(0), 1, 0)], head, /nowhere/],
    ['a parent that is not there', [entry(at(0), 1, PARENT)], head, /parent/],
    ['no address', [message([2, 1])], head, /without vaddr/],
    ['no protobuf', [Buffer.from([0xff, 0xff])], head, /no pagemap_entry/],
  ])('a pagemap with %s', async (name, entries, offset, what) => {
    const dir = await temporaryDir();
    const bytes = pagemap(1, entries);
    const file = join(dir, 'pagemap-9.img');
    await writeFiles(dir, {
      'pagemap-9.img': name === 'no head' ? bytes.subarray(0, 8) : bytes,
      'pages-1.img': pagesOf(0, 1),
    });
    const error = await errorOf(open(dir));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file, offset });
    expect(error.message).toMatch(what);
  });

  test('records that claim more than the file has', async () => {
    const dir = await temporaryDir();
    const bytes = Buffer.concat([pagemap(1, []), Buffer.from([0xff, 0xff, 0xff, 0xff])]);
    await writeFiles(dir, { 'pagemap-9.img': bytes, 'pages-1.img': pagesOf() });
    const offset = bytes.length - 4;
    expect(await errorOf(open(dir))).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', offset });
  });

  test('what this version does not know', async () => {
    for (const unknown of [entry(at(0), 1, 8), message([1, at(0)], [2, 1], [4, 4], [7, 100])]) {
      const dir = await temporaryDir();
      await writeFiles(dir, { 'pagemap-9.img': pagemap(1, [unknown]), 'pages-1.img': pagesOf(0) });
      expect(await errorOf(open(dir))).toMatchObject({ code: 'ERR_SLUICE_IMAGE_VERSION' });
    }
  });

  test('pages files and parents', async () => {
    const files = { 'pagemap-9.img': pagemap(1, good), 'pages-1.img': pagesOf(0, 1) };
    const damaged = async (change: (dir: string) => Promise<unknown>) => {
      const dir = await writeFiles(join(await temporaryDir(), 'images'), files);
      await change(dir);
      const { code, file = '' } = await errorOf(open(dir));
      expect(code).toBe('ERR_SLUICE_IMAGE_CORRUPT');
      return file.slice(dir.length + 1);
    };
    expect(await damaged((dir) => rm(join(dir, 'pages-1.img')))).toBe('pages-1.img');
    expect(await damaged((dir) => writeFiles(dir, { 'pages-1.img': pagesOf(0) }))).toBe(
      'pages-1.img',
    );
    expect(await damaged((dir) => writeFiles(dir, { 'pages-1.img': pagesOf(0, 1, 2) }))).toBe(
      'pages-1.img',
    );
    const twice = { 'pagemap-10.img': pagemap(1, []) };
    expect(await damaged((dir) => writeFiles(dir, twice))).toBe('pagemap-9.img');
    for (const parent of ['.', '../images', 'nowhere', '..']) {
      expect(await damaged((dir) => symlink(parent, join(dir, 'parent')))).toBe('parent');
    }
    // The parent has one of the two pages.
    const hole = async (dir: string) => {
      await writeFiles(join(dir, '../below'), {
        'pagemap-9.img': pagemap(1, [entry(at(0), 1)]),
        'pages-1.img': pagesOf(0),
      });
      const left = {
        'pagemap-9.img': pagemap(1, [entry(at(0), 2, PARENT)]),
        'pages-1.img': pagesOf(),
      };
      await writeFiles(dir, left, '../below');
    };
    expect(await damaged(hole)).toBe('pagemap-9.img');
  });

  test('mappings', async () => {
    const area = { start: at(0), pages: 2, status: ANON };
    const files = { 'pagemap-9.img': pagemap(1, good), 'pages-1.img': pagesOf(0, 1) };
    for (const areas of [[area, area], [{ ...area, pages: 0 }], [{ ...area, start: at(0) + 1n }]]) {
      const dir = await temporaryDir();
      await writeFiles(dir, { ...files, 'mm-9.img': mm(areas) });
      const error = await errorOf(open(dir));
      expect(error).toMatchObject({
        code: 'ERR_SLUICE_IMAGE_CORRUPT',
        file: join(dir, 'mm-9.img'),
      });
    }
    // A stored page that no mapping has is a fault of the pagemap.
    const dir = await temporaryDir();
    await writeFiles(dir, { ...files, 'mm-9.img': mm([{ ...area, pages: 1 }]) });
    const file = join(dir, 'pagemap-9.img');
    expect(await errorOf(open(dir))).toMatchObject({ file, offset: head });
  });
});

test('a directory of both is one of Sluice', async () => {
  const dir = await temporaryDir();
  await mkdir(join(dir, 'empty'));
  expect(await errorOf(open(join(dir, 'empty')))).toMatchObject({
    code: 'ERR_SLUICE_IMAGE_UNFINISHED',
  });
  await writeFiles(dir, { 'manifest.msgpack': Buffer.alloc(9), 'inventory.img': inventory(1n) });
  expect(await errorOf(open(dir))).toMatchObject({ file: join(dir, 'manifest.msgpack') });
});
