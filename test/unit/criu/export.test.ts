/** What `exportImage` writes, by a decoder that is not the product's where it is about form. */
import {
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import { exportImage } from '@sluice/core';
import { checkCriuParent, writeCriuDirectory } from '@sluice/core/criu';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mountRefusal, SmallDisk } from '../../harness/temp.js';
import { smallMemory, writeSmallChain } from '../image/chain_support.js';
import {
  errorOf,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from '../image/support.js';
import { entry, inventory, message, PARENT, PRESENT, pagemap, writeFiles } from './support.js';

const noMount = await mountRefusal();
const at = (page: number) => SMALL_START + BigInt(page * PAGE);
const NPID = 7;

interface Entry {
  page: number;
  pages: number;
  flags: number;
}

/** The entries of a pagemap that has just the bytes that they should have. */
async function entriesOf(path: string, base = SMALL_START): Promise<Entry[]> {
  const bytes = await readFile(path);
  const entries: Entry[] = [];
  for (let i = 14; i < bytes.length; i += 4 + bytes.readUInt32LE(i)) {
    const payload = bytes.subarray(i + 4, i + 4 + bytes.readUInt32LE(i));
    const values = [0n, 0n, 0n, 0n, 0n, 0n];
    for (let k = 0; k < payload.length; ) {
      const field = (payload[k] ?? 0) >> 3;
      k += 1;
      for (let shift = 0n; ; shift += 7n) {
        const byte = payload[k] ?? 0;
        k += 1;
        values[field] = (values[field] ?? 0n) | (BigInt(byte & 0x7f) << shift);
        if (byte < 0x80) break;
      }
    }
    const [, address = 0n, compat, , flags, pages] = values;
    // Old readers look at one count, new ones at the other.
    expect(compat).toBe(pages);
    const page = Number((address - base) / BigInt(PAGE));
    entries.push({ page, pages: Number(pages), flags: Number(flags) });
  }
  return entries;
}

describe('exportImage()', () => {
  test('merges a chain', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    const out = join(await temporaryDir(), 'out');
    expect(await exportImage(dir, out)).toEqual({
      dir: out,
      format: 'criu',
      pages_written: 8,
      bytes_written: 8 * PAGE,
      images: 3,
    });
    const names = ['inventory.img', `pagemap-${NPID}.img`, 'pages-1.img', 'stats-dump'];
    expect((await readdir(out)).sort()).toEqual(names);
    for (const name of names) expect((await stat(join(out, name))).mode & 0o777).toBe(0o600);
    expect((await stat(out)).mode & 0o777).toBe(0o700);
    expect(await entriesOf(join(out, `pagemap-${NPID}.img`))).toEqual([
      { page: 0, pages: 6, flags: PRESENT },
      { page: 7, pages: 2, flags: PRESENT },
    ]);
    const memory = smallMemory();
    const stored = Buffer.concat([
      memory.subarray(0, 6 * PAGE),
      memory.subarray(7 * PAGE, 9 * PAGE),
    ]);
    expect(stored.equals(await readFile(join(out, 'pages-1.img')))).toBe(true);
    const record = message([1, 1], [2, 1], [8, 12_346n * 10_000n], [9, 2]);
    const written = await readFile(join(out, 'inventory.img'));
    expect(written.subarray(8).equals(record)).toBe(true);
    // As the parent of a dump of the same process, and of none that started later.
    const target = { namespacePid: NPID, startTimeTicks: 12_345n };
    const pages = Number(SMALL_START) / PAGE;
    expect(await checkCriuParent(join(out, '..', 'next'), '../out', target)).toEqual([
      { start: pages, end: pages + 6 },
      { start: pages + 7, end: pages + 9 },
    ]);
  });

  test('takes private mappings, and of shared ones those that are anonymous', async () => {
    const dir = await temporaryDir();
    const zero = {
      kind: 'shared-memory',
      shared: true,
      path: '/dev/zero (deleted)',
      inode: 55n,
    } as const;
    const vmas = [
      vmaOf(at(0), 2),
      vmaOf(at(2), 2, { ...zero, offset: BigInt(PAGE) }),
      vmaOf(at(4), 2, { ...zero, offset: BigInt(2 * PAGE) }),
      vmaOf(at(6), 1, {
        kind: 'shared-memory',
        shared: true,
        path: '/memfd:x (deleted)',
        inode: 56n,
      }),
      vmaOf(at(7), 1, { kind: 'private-file', path: '/lib/x' }),
    ];
    const records = [
      { address: at(0), pages: 4, shard: 0, offset: 0 },
      // The page of the object that is mapped twice is stored once.
      { address: at(4), pages: 1, shard: 0, offset: 3 * PAGE },
      { address: at(5), pages: 3, shard: 0, offset: 4 * PAGE },
    ];
    const data = pattern(7 * PAGE, 4);
    await writeTestImage({
      dir,
      shards: [data],
      processes: [processOf({ vmas, pageTable: pageTableOf(records) })],
    });
    const out = join(await temporaryDir(), 'out');
    await exportImage(dir, out);
    expect(await entriesOf(join(out, `pagemap-${NPID}.img`))).toEqual([
      { page: 0, pages: 2, flags: PRESENT },
      { page: 7, pages: 1, flags: PRESENT },
    ]);
    expect(await entriesOf(join(out, 'pagemap-shmem-55.img'), 0n)).toEqual([
      { page: 1, pages: 3, flags: PRESENT },
    ]);
    const page = (i: number) => data.subarray(i * PAGE, (i + 1) * PAGE);
    const priv = Buffer.concat([page(0), page(1), page(6)]);
    expect(priv.equals(await readFile(join(out, 'pages-1.img')))).toBe(true);
    const shared = Buffer.concat([page(2), page(3), page(4)]);
    expect(shared.equals(await readFile(join(out, 'pages-2.img')))).toBe(true);
    expect((await readdir(out)).filter((name) => name.startsWith('pagemap-shmem-'))).toHaveLength(
      1,
    );
  });

  test('reads back as any memory that is written', async () => {
    const pages = 24;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.boolean(), { minLength: pages, maxLength: pages }),
        async (stored) => {
          const dir = await temporaryDir();
          const data = pattern(pages * PAGE, 9);
          const records = stored.flatMap((is, page) =>
            // From the end to the start, so that nothing can be copied as it lies.
            is
              ? [{ address: at(page), pages: 1, shard: 0, offset: (pages - 1 - page) * PAGE }]
              : [],
          );
          const vmas = [vmaOf(at(0), pages)];
          const process = processOf({ vmas, pageTable: pageTableOf(records) });
          await writeTestImage({ dir, shards: [data], processes: [process] });
          await exportImage(dir, join(dir, 'out'));
          await using before = await open(dir);
          await using image = await open(join(dir, 'out'));
          expect(image.processes[0]?.pagesStored).toBe(records.length);
          for (const { address } of records) {
            const expected = Buffer.from(await before.read(77, address, PAGE));
            expect(expected.equals(await image.read(NPID, address, PAGE))).toBe(true);
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  test('leaves what is there, and nothing of what fails', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    const out = await temporaryDir();
    await writeFile(join(out, 'notes'), '');
    expect(await errorOf(exportImage(dir, out))).toMatchObject({
      code: 'ERR_SLUICE_OUTPUT_EXISTS',
    });
    expect(await readdir(out)).toEqual(['notes']);
    const gone = join(out, 'gone');
    const { signal } = ((controller) => {
      controller.abort(new Error('enough'));
      return controller;
    })(new AbortController());
    expect(await errorOf(exportImage(dir, gone, { signal }))).toMatchObject({ code: 'ABORT_ERR' });
    // A shard whose checksum is wrong.
    const shard = join(dir, 'shard-0000.img');
    const bytes = await readFile(shard);
    bytes[5] = (bytes[5] ?? 0) ^ 1;
    await writeFile(shard, bytes);
    expect(await errorOf(exportImage(dir, gone))).toMatchObject({
      code: 'ERR_SLUICE_IMAGE_CORRUPT',
    });
    expect(await readdir(out)).toEqual(['notes']);
    expect(await errorOf(exportImage(dir, ''))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  test('leaves nothing if the disk gets full', async (ctx) => {
    if (noMount !== undefined) ctx.skip(noMount);
    const dir = await temporaryDir();
    await writeTestImage({
      dir,
      shards: [pattern(300 * PAGE, 1)],
      processes: [
        processOf({
          vmas: [vmaOf(at(0), 300)],
          pageTable: pageTableOf([{ address: at(0), pages: 300, shard: 0, offset: 0 }]),
        }),
      ],
    });
    await using disk = new SmallDisk(100 * PAGE);
    const error = await errorOf(exportImage(dir, disk.path));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_DISK_FULL' });
    expect(await readdir(disk.path)).toEqual([]);
  });
});

test('writeCriuDirectory() repeats what the parent covers', async () => {
  const dir = await temporaryDir();
  await writeSmallChain(dir);
  const out = await writeFiles(join(await temporaryDir(), '2'), {});
  // Round 2 of the small chain alone stores pages 2, 3, 4 and 9.
  await using image = await open(join(dir, 'round-0002'));
  const pages = Number(SMALL_START) / PAGE;
  const coverage = new Map([
    [
      NPID,
      [
        { start: pages, end: pages + 3 },
        { start: pages + 8, end: pages + 12 },
      ],
    ],
  ]);
  const written = await writeCriuDirectory({
    dir: out,
    image,
    ownOnly: true,
    parent: { link: '../1', coverage },
    uptimeMicroseconds: 77n,
    stats: { frozenTime: 5 },
  });
  expect(written).toEqual({ pagesWritten: 4, pagesInParent: 2 + 1 + 2 });
  expect(await readlink(join(out, 'parent'))).toBe('../1');
  expect(await entriesOf(join(out, `pagemap-${NPID}.img`))).toEqual([
    { page: 0, pages: 2, flags: PARENT },
    { page: 2, pages: 3, flags: PRESENT },
    { page: 8, pages: 1, flags: PARENT },
    { page: 9, pages: 1, flags: PRESENT },
    { page: 10, pages: 2, flags: PARENT },
  ]);
});

test('any parent and any pages come together as they do page by page', async () => {
  const pages = 16;
  const base = Number(SMALL_START) / PAGE;
  const flags = fc.array(fc.boolean(), { minLength: pages, maxLength: pages });
  await fc.assert(
    fc.asyncProperty(flags, flags, async (stored, covered) => {
      const dir = await temporaryDir();
      const records = stored.flatMap((is, page) =>
        is ? [{ address: at(page), pages: 1, shard: 0, offset: page * PAGE }] : [],
      );
      const vmas = [vmaOf(at(0), 5), vmaOf(at(5), pages - 5)];
      const process = processOf({ vmas, pageTable: pageTableOf(records) });
      await writeTestImage({ dir, shards: [pattern(pages * PAGE, 3)], processes: [process] });
      await using image = await open(dir);
      const spans = covered.flatMap((is, page) =>
        is ? [{ start: base + page, end: base + page + 1 }] : [],
      );
      const out = await writeFiles(join(dir, 'out'), {});
      const coverage = new Map([[NPID, spans]]);
      const parent = { link: '../1', coverage };
      await writeCriuDirectory({ dir: out, image, parent, uptimeMicroseconds: 1n });
      const entries = await entriesOf(join(out, `pagemap-${NPID}.img`));
      const found = new Array<number>(pages).fill(0);
      let last = { page: 0, pages: 0, flags: 0 };
      for (const next of entries) {
        expect(next.page).toBeGreaterThanOrEqual(last.page + last.pages);
        // What could be one entry is one.
        if (next.page === last.page + last.pages) expect(next.flags).not.toBe(last.flags);
        found.fill(next.flags, next.page, next.page + next.pages);
        last = next;
      }
      expect(found).toEqual(stored.map((is, i) => (is ? PRESENT : covered[i] ? PARENT : 0)));
    }),
    { numRuns: 60 },
  );
});

describe('checkCriuParent() refuses', () => {
  const files = {
    'inventory.img': inventory(20_000n),
    'pagemap-9.img': pagemap(1, [entry(at(0), 1)]),
    'pages-1.img': pattern(PAGE, 1),
  };
  const target = { namespacePid: 9, startTimeTicks: 1n };
  test.each([
    ['another process', files, { ...target, namespacePid: 10 }, /no pagemap-10.img/],
    ['a process that is younger', files, { ...target, startTimeTicks: 2n }, /before process 9/],
    ['one without a time', { ...files, 'inventory.img': Buffer.alloc(0) }, target, /inventory.img/],
    ['a damaged one', { ...files, 'pages-1.img': Buffer.alloc(1) }, target, /pages-1.img/],
    ['one that is none', {}, target, /no images of CRIU/],
  ])('%s', async (_, contents, process, reason) => {
    const dir = await temporaryDir();
    await writeFiles(join(dir, '1'), contents);
    const error = await errorOf(checkCriuParent(join(dir, '2'), '../1', process));
    expect(error).toMatchObject({
      code: 'ERR_SLUICE_PARENT',
      message: expect.stringMatching(reason),
    });
  });

  test('a path that would not outlast a move, and takes one that fits', async () => {
    const dir = await temporaryDir();
    await writeFiles(join(dir, '1'), files);
    const absolute = checkCriuParent(join(dir, '2'), join(dir, '1'), target);
    expect(await errorOf(absolute)).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    const start = Number(SMALL_START) / PAGE;
    const coverage = await checkCriuParent(join(dir, '2'), '../1', target);
    expect(coverage).toEqual([{ start, end: start + 1 }]);
  });

  test('one that is only beside a link to the new directory', async () => {
    const dir = await temporaryDir();
    const other = await temporaryDir();
    await writeFiles(join(dir, '1'), files);
    await symlink(other, join(dir, '2'));
    // The link that CRIU follows is in the directory itself.
    const error = await errorOf(checkCriuParent(join(dir, '2'), '../1', target));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_PARENT' });
    await rename(join(dir, '1'), join(other, '..', `${basename(other)}-1`));
    try {
      await checkCriuParent(join(dir, '2'), `../${basename(other)}-1`, target);
    } finally {
      await rm(`${other}-1`, { recursive: true });
    }
  });
});
