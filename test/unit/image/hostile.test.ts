/**
 * Images made to do harm: every checksum is right, but the contents are not. All must end in a typed
 * error that names file and offset, soon, and without room made for what they claim.
 */
import { execFileSync } from 'node:child_process';
import {
  mkdir,
  open as openFile,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest } from '@sluice/core/image';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  errorOf,
  naiveCrc32c,
  open,
  PAGE,
  pageTableOf,
  processOf,
  Raw,
  replaceManifest,
  type SluiceErrorLike,
  SMALL_PID,
  SMALL_START,
  temporaryDir,
  useSmallImage,
  vmaOf,
  wrapPayload,
  writeSmallImage,
  writeTestImage,
} from './support.js';

const HEADER_BYTES = 25;

/** A manifest to be spoiled: anything may be put anywhere. */
interface Loose {
  [key: string]: Loose;
  [index: number]: Loose;
}

/** What is wrong with it, how it is made so, and what the error says. */
type Spoiled = [string, (manifest: Loose) => unknown, RegExp];

const EXTENDED_FEATURES: [string, object, string][] = [
  ['of the legacy area', { number: 1 }, 'number'],
  ['that no bit stands for', { number: 63 }, 'number'],
  ['with a number as text', { number: '2' }, 'number'],
  ['of 4 GiB', { bytes: 2 ** 32 - 1 }, 'bytes'],
  ['of less than nothing', { bytes: -1 }, 'bytes'],
  ['far away', { offset: 2 ** 31 }, 'offset'],
  ['at half a byte', { offset: 576.5 }, 'offset'],
  ['with flags', { flags: 0 }, 'flags'],
];

/** Opens, expects damage, and that neither time nor memory was spent on it. */
async function expectCorrupt(dir: string, file = 'manifest.msgpack'): Promise<SluiceErrorLike> {
  const start = performance.now();
  const peakKiB = process.resourceUsage().maxRSS;
  const error = await errorOf(useSmallImage(dir));
  expect(error.code, error.stack).toBe('ERR_SLUICE_IMAGE_CORRUPT');
  expect(error.file).toBe(join(dir, file));
  expect(typeof error.offset).toBe('number');
  expect(performance.now() - start).toBeLessThan(10_000);
  expect(process.resourceUsage().maxRSS - peakKiB).toBeLessThan(64 * 1024);
  return error;
}

async function smallImage(): Promise<{ dir: string; manifest: Manifest }> {
  const dir = await temporaryDir();
  return { dir, manifest: await writeSmallImage(dir) };
}

// First, so that what is loaded at the first use does not count as memory spent on a hostile image.
test('a manifest by another encoder is accepted', async () => {
  const { dir, manifest } = await smallImage();
  await replaceManifest(dir, manifest);
  const image = await open(dir);
  expect(image.manifest).toEqual(manifest);
  await image.close();
});

describe('a payload that is no MessagePack of ours', () => {
  const u32 = (n: number) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];
  const nested = (depth: number) => [...Array(depth).fill(0x91), 0xc0];
  test.each<[string, number[], number, RegExp]>([
    ['is empty', [], 0, /ends where a value/],
    ['is an array of four billion', [0xdd, ...u32(0xffff_ffff)], 0, /claims 4294967295/],
    ['is a map of four billion', [0xdf, ...u32(0xffff_ffff)], 0, /claims 8589934590/],
    ['holds an array of four billion', [0x81, 0xa1, 97, 0xdd, ...u32(0xffff_ffff)], 3, /claims/],
    ['is a string of four billion', [0xdb, ...u32(0xffff_ffff), 97], 0, /claims 4294967295/],
    ['is binary of four billion', [0xc6, ...u32(0xffff_ffff)], 0, /claims 4294967295/],
    ['has a length that is cut off', [0xdd, 0, 0], 0, /claims 4 bytes/],
    ['ends inside a number', [0xcf, 1, 2, 3], 0, /claims 8 bytes/],
    ['is nested too deep', nested(17), 16, /deeper/],
    ['is nested a million deep', nested(1_000_000), 16, /deeper/],
    ['has an extension', [0xd4, 1, 2], 0, /type 0xd4/],
    ['has a long extension', [0xc9, ...u32(1), 5, 0], 0, /type 0xc9/],
    ['has a time stamp', [0xd6, 0xff, ...u32(0)], 0, /type 0xd6/],
    ['has the type that is never used', [0xc1], 0, /type 0xc1/],
    ['has a key that is a number', [0x81, 1, 1], 1, /key/],
    ['has a key that is a map', [0x81, 0x80, 1], 1, /key/],
    ['has bytes after its end', [0xc0, 0xc0], 1, /after the end/],
    ['has too many keys', [0xde, 0, 65, ...Array(65).fill([0xa0, 0xc0]).flat()], 0, /more keys/],
    ['is nil', [0xc0], 0, /Object/],
    ['is a number', [0x07], 0, /Object/],
    ['is an array', [0x90], 0, /producer/],
    ['is an empty map', [0x80], 0, /producer/],
    ['has a key of another name', [0x81, 0xa1, 97, 0xc0], 0, /producer/],
  ])('that %s', async (_, payload, offset, said) => {
    const { dir } = await smallImage();
    await writeFile(join(dir, 'manifest.msgpack'), wrapPayload(Uint8Array.from(payload)));
    const error = await expectCorrupt(dir);
    expect(error.offset).toBe(HEADER_BYTES + offset);
    expect(error.message).toMatch(said);
  });

  test('that has more arrays than any process has mappings', async () => {
    const { dir } = await smallImage();
    const payload = Buffer.alloc(5 + 2 ** 21, 0x90);
    payload.set([0xdd, 0, 0x20, 0, 0]);
    const crc32c = (bytes: Uint8Array) => bytes.length;
    const file = wrapPayload(payload);
    file.writeUInt32BE(payload.length, 16);
    await writeFile(join(dir, 'manifest.msgpack'), file);
    const { openImage } = await import('@sluice/core/image');
    const error = await errorOf(openImage(dir, { crc32c }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
    expect(error.message).toContain('more containers');
  });

  test('that is any bytes at all', async () => {
    const { dir } = await smallImage();
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 64 }), async (payload) => {
        await writeFile(join(dir, 'manifest.msgpack'), wrapPayload(payload));
        await expectCorrupt(dir);
      }),
      { numRuns: 500 },
    );
  });
});

test('any valid manifest of which one value is replaced is refused or harmless', async () => {
  const { dir, manifest } = await smallImage();
  const paths: (string | number)[][] = [];
  const walk = (value: unknown, path: (string | number)[]): void => {
    if (path.length > 0) paths.push(path);
    if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return;
    for (const key of Object.keys(value)) {
      walk((value as Record<string, unknown>)[key], [...path, Array.isArray(value) ? +key : key]);
    }
  };
  walk(manifest, []);
  const values = [
    null,
    true,
    0,
    1,
    -1,
    0.5,
    2 ** 32,
    2 ** 53,
    -0.0,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    0n,
    1n,
    -1n,
    4096n,
    2n ** 64n - 1n,
    '',
    'x',
    '../x',
    '\0',
    [],
    {},
    [{}],
    new Uint8Array(),
    new Uint8Array(3),
    new Raw(0xdd, 0xff, 0xff, 0xff, 0xff),
    new Raw(0xc1),
    new Raw(0xd4, 1, 2),
  ];
  for (const path of paths) {
    for (const value of values) {
      const loose = structuredClone(manifest) as unknown as Loose;
      const parent = path.slice(0, -1).reduce((at: Loose, key) => at[key] as Loose, loose);
      (parent as unknown as Record<string | number, unknown>)[path.at(-1) ?? ''] = value;
      await replaceManifest(dir, loose);
      try {
        await useSmallImage(dir);
      } catch (error) {
        const { code } = error as SluiceErrorLike;
        // Reading may also meet what the manifest now says of the mappings.
        expect(code, `${path.join('.')} = ${String(value)}: ${error}`).toMatch(
          /^ERR_SLUICE_(IMAGE_CORRUPT|NOT_MAPPED|LEFT_OUT)$/,
        );
      }
    }
  }
});

describe('a manifest', () => {
  const vma0 = (m: Loose) => m.processes?.[0]?.vmas?.[0] as unknown as Record<string, unknown>;
  const process0 = (m: Loose) => m.processes?.[0] as unknown as Record<string, unknown>;
  const shard0 = (m: Loose) => m.shards?.[0] as unknown as Record<string, unknown>;
  const table0 = (m: Loose) => m.processes?.[0]?.pageTable as unknown as Record<string, unknown>;
  const top = (m: Loose) => m as unknown as Record<string, unknown>;

  test.each<[string, (manifest: Loose) => unknown, RegExp]>([
    [
      'with a shard in another directory',
      (m) => Object.assign(shard0(m), { file: '../shard-0000.img' }),
      /shards.0.file/,
    ],
    [
      'with a shard of an absolute name',
      (m) => Object.assign(shard0(m), { file: '/etc/passwd' }),
      /shards.0.file/,
    ],
    [
      'with a shard that is the directory',
      (m) => Object.assign(shard0(m), { file: '.' }),
      /shards.0.file/,
    ],
    [
      'with a NUL in a name',
      (m) => Object.assign(shard0(m), { file: 'shard-0000.img\0' }),
      /shards.0.file/,
    ],
    [
      'with a line end after a name',
      (m) => Object.assign(shard0(m), { file: 'shard-0000.img\n' }),
      /shards.0.file/,
    ],
    [
      'with the same shard twice',
      (m) => Object.assign(shard0(m), { file: 'shard-0001.img' }),
      /shards.1.file.*twice/,
    ],
    [
      'with a page table elsewhere',
      (m) => Object.assign(table0(m), { file: '../pages-77.tbl' }),
      /pageTable.file/,
    ],
    [
      'with the page table of another',
      (m) => Object.assign(table0(m), { file: 'pages-78.tbl' }),
      /pageTable.file/,
    ],
    [
      'with a shard as page table',
      (m) => Object.assign(table0(m), { file: 'shard-0000.img' }),
      /pageTable.file/,
    ],
    [
      'with half a page in a shard',
      (m) => Object.assign(shard0(m), { bytes: 4097n }),
      /shards.0.bytes/,
    ],
    [
      'with a shard of 2^64 - 4096 bytes',
      (m) => Object.assign(shard0(m), { bytes: 2n ** 64n - 4096n }),
      /shards.0.bytes/,
    ],
    [
      'with too few checksums',
      (m) => Object.assign(shard0(m), { crcs: new Uint8Array(4) }),
      /shards.0.crcs/,
    ],
    [
      'with too many checksums',
      (m) => Object.assign(shard0(m), { crcs: new Uint8Array(12) }),
      /shards.0.crcs/,
    ],
    ['with pieces of 0 bytes', (m) => Object.assign(m, { pieceBytes: 0 }), /pieceBytes/],
    ['with pieces of half a page', (m) => Object.assign(m, { pieceBytes: 2048 }), /pieceBytes/],
    ['with pieces of 1 GiB', (m) => Object.assign(m, { pieceBytes: 2 ** 30 }), /pieceBytes/],
    ['with pieces and no checksum', (m) => Object.assign(m, { checksum: 'none' }), /pieceBytes/],
    ['with another page size', (m) => Object.assign(m, { pageSizeBytes: 16384 }), /pageSizeBytes/],
    [
      'with an unknown consistency',
      (m) => Object.assign(m, { consistency: 'torn' }),
      /consistency/,
    ],
    ['with an unknown key', (m) => Object.assign(m, { extra: 1 }), /extra/],
    [
      'with __proto__',
      (m) => Object.defineProperty(m, '__proto__', { value: {}, enumerable: true }),
      /__proto_/,
    ],
    ['without kernel', (m) => delete top(m).kernel, /kernel/],
    ['without processes', (m) => Object.assign(m, { processes: [] }), /processes/],
    ['without rounds', (m) => Object.assign(m, { rounds: [] }), /rounds/],
    [
      'with the same process twice',
      (m) => (top(m).processes as unknown[]).push(process0(m)),
      /processes.1.pid.*twice/,
    ],
    [
      'with a pid of NaN',
      (m) => Object.assign(process0(m), { pid: Number.NaN }),
      /processes.0.pid/,
    ],
    ['with a negative pid', (m) => Object.assign(process0(m), { pid: -77 }), /processes.0.pid/],
    ['with a pid as bigint', (m) => Object.assign(process0(m), { pid: 77n }), /processes.0.pid/],
    ['with an address as number', (m) => Object.assign(vma0(m), { start: 4096 }), /vmas.0.start/],
    ['with a negative address', (m) => Object.assign(vma0(m), { start: -4096n }), /vmas.0.start/],
    [
      'with an address inside a page',
      (m) => Object.assign(vma0(m), { start: SMALL_START + 1n }),
      /vmas.0/,
    ],
    [
      'with a mapping that ends at its start',
      (m) => Object.assign(vma0(m), { end: SMALL_START }),
      /vmas.0: ends/,
    ],
    [
      'with mappings that overlap',
      (m) => Object.assign(vma0(m), { end: 0xffff_ffff_ff60_1000n }),
      /vmas.1: overlaps/,
    ],
    [
      'with mappings out of order',
      (m) => (process0(m).vmas as unknown[]).reverse(),
      /vmas.1: overlaps/,
    ],
    [
      'with an offset inside a page',
      (m) => Object.assign(vma0(m), { offset: 1n }),
      /vmas.0.offset/,
    ],
    [
      'with an unknown kind of mapping',
      (m) => Object.assign(vma0(m), { kind: 'secret' }),
      /vmas.0.kind/,
    ],
    [
      'with a relative path of a file',
      (m) => Object.assign(vma0(m), { file: fileOf('etc/passwd') }),
      /file.path/,
    ],
    [
      'with a NUL in a path',
      (m) => Object.assign(vma0(m), { file: fileOf('/etc/\0passwd') }),
      /file.path/,
    ],
    [
      'with left-out ranges upside down',
      (m) =>
        Object.assign(process0(m).leftOut as object, [{ start: 8192n, end: 4096n, reason: '' }]),
      /leftOut.0/,
    ],
    [
      'with a page count that is wrong',
      (m) => Object.assign(process0(m), { pagesStored: 5 }),
      /is 4 pages where the manifest has 5/,
    ],
    [
      'with a name as binary',
      (m) => Object.assign(process0(m), { name: new Uint8Array(2) }),
      /processes.0.name/,
    ],
    [
      'with text instead of registers',
      (m) => Object.assign((process0(m).threads as object[])[0] as object, { registers: 'x' }),
      /registers/,
    ],
    [
      'with extended registers of 1 MiB',
      (m) =>
        Object.assign((process0(m).threads as object[])[0] as object, {
          extendedRegisters: new Uint8Array(2 ** 20),
        }),
      /extendedRegisters/,
    ],
    [
      'with three user ids',
      (m) => Object.assign(process0(m).state as object, { userIds: [0, 0, 0] }),
      /state.userIds/,
    ],
    [
      'with the action of signal 65',
      (m) =>
        Object.assign(process0(m).state as object, {
          signalActions: [{ signal: 65, handler: 0n, flags: 0n, restorer: 0n, mask: 0n }],
        }),
      /signalActions.0.signal/,
    ],
    ...EXTENDED_FEATURES.map(([title, wrong, said]): Spoiled => {
      const layout = [{ number: 2, bytes: 256, offset: 576, ...wrong }];
      return [
        `with an extended feature ${title}`,
        (m) => Object.assign(process0(m).state as object, { extendedLayout: layout }),
        new RegExp(`extendedLayout.0.${said}`),
      ];
    }),
    [
      'with the same extended feature twice',
      (m) =>
        Object.assign(process0(m).state as object, {
          extendedLayout: [5, 6, 5].map((number) => ({ number, bytes: 1, offset: 0 })),
        }),
      /extendedLayout.2.number: 5 is there twice/,
    ],
    [
      'with more extended features than there are bits',
      (m) =>
        Object.assign(process0(m).state as object, {
          extendedLayout: Array.from({ length: 62 }, () => ({ number: 2, bytes: 1, offset: 0 })),
        }),
      /state.extendedLayout/,
    ],
    [
      'without limits',
      (m) => Reflect.deleteProperty(process0(m).state as object, 'limits'),
      /state.limits/,
    ],
    ['with 2^28 + 1 records', (m) => Object.assign(table0(m), { entries: 2 ** 28 + 1 }), /entries/],
  ])('%s is refused', async (_, spoil, said) => {
    const { dir, manifest } = await smallImage();
    const loose = structuredClone(manifest) as unknown as Loose;
    spoil(loose);
    await replaceManifest(dir, loose);
    const file = said.source.includes('pages where') ? 'pages-77.tbl' : 'manifest.msgpack';
    expect((await expectCorrupt(dir, file)).message).toMatch(said);
  });

  test('is refused with the offset of the value that is wrong', async () => {
    const { dir, manifest } = await smallImage();
    const loose = structuredClone(manifest) as unknown as Loose;
    Object.assign(vma0(loose), { kind: 'UNKNOWN-KIND' });
    await replaceManifest(dir, loose);
    const bytes = await readFile(join(dir, 'manifest.msgpack'));
    const { offset } = await expectCorrupt(dir);
    expect(offset).toBe(bytes.indexOf('UNKNOWN-KIND') - 5);
  });

  test.each([
    [
      'shard-0000.img',
      (m: Loose) =>
        Object.assign(shard0(m), { bytes: 2n ** 42n, crcs: new Uint8Array(4 * 2 ** 16) }),
      3 * PAGE,
    ],
    ['pages-77.tbl', (m: Loose) => Object.assign(table0(m), { entries: 2 ** 28 }), 3 * 24],
  ])(
    'that claims terabytes for %s is refused: the file does not have them',
    async (file, spoil, ends) => {
      const { dir, manifest } = await smallImage();
      const loose = structuredClone(manifest) as unknown as Loose;
      spoil(loose);
      Object.assign(loose, { pieceBytes: 2 ** 26 });
      const crcs = new Uint8Array(4);
      Object.assign(loose.shards?.[1] as object, { crcs });
      if (file.endsWith('.tbl')) Object.assign(shard0(loose), { crcs });
      await replaceManifest(dir, loose);
      expect((await expectCorrupt(dir, file)).offset).toBe(ends);
    },
  );

  test('larger than any manifest is refused before it is read', async () => {
    const { dir } = await smallImage();
    const path = join(dir, 'manifest.msgpack');
    const handle = await openFile(path, 'r+');
    await handle.truncate(2 ** 40);
    await handle.close();
    const error = await expectCorrupt(dir);
    expect(error.message).toContain('more than a manifest may have');
  });
});

describe('a file that is not what its name says', () => {
  const names = ['manifest.msgpack', 'shard-0000.img', 'pages-77.tbl'];

  test.each(names)('%s as symbolic link, directory or fifo is refused', async (name) => {
    const { dir } = await smallImage();
    const path = join(dir, name);
    const elsewhere = join(await temporaryDir(), 'elsewhere');
    await rename(path, elsewhere);
    await symlink(elsewhere, path);
    expect((await expectCorrupt(dir, name)).message).toContain('not a regular file');
    await rm(path);
    await mkdir(path);
    expect((await expectCorrupt(dir, name)).message).toContain('not a regular file');
    await rm(path, { recursive: true });
    execFileSync('mkfifo', [path]);
    expect((await expectCorrupt(dir, name)).message).toContain('not a regular file');
  });

  test.each(names.slice(1))('%s missing is refused', async (name) => {
    const { dir } = await smallImage();
    await rm(join(dir, name));
    expect(await expectCorrupt(dir, name)).toMatchObject({ offset: 0 });
  });
});

describe('a page table', () => {
  const at = (page: number, pages = 1, shard = 0, offset = 0) => ({
    address: SMALL_START + BigInt(page * PAGE),
    pages,
    shard,
    offset,
  });
  const top = { address: 2n ** 64n - 4096n, pages: 2 ** 32 - 1, shard: 0, offset: 0 };

  test.each([
    ['with records that overlap', [at(0, 2), at(1)], 24],
    ['with records out of order', [at(3), at(1)], 24],
    ['with the same record twice', [at(1), at(1)], 24],
    ['with a record of no pages', [at(0), at(1, 0)], 24],
    ['with an address inside a page', [{ ...at(0), address: SMALL_START + 8n }], 0],
    ['with an offset inside a page', [at(0, 1, 0, 8)], 0],
    ['with a shard that is not there', [at(0), at(1), at(2, 1, 2)], 48],
    ['with shard 2^32 - 1', [at(0, 1, 2 ** 32 - 1)], 0],
    ['with pages beyond their shard', [at(0, 3, 0, PAGE)], 0],
    ['with an offset beyond its shard', [at(0, 1, 1, PAGE)], 0],
    ['with an offset of 2^53 - 4096', [at(0, 1, 1, 2 ** 53 - PAGE)], 0],
    ['with pages before the mapping', [{ ...at(0), address: SMALL_START - 4096n }], 0],
    ['with pages after the mapping', [at(7), at(8)], 24],
    ['with pages across its end', [at(6, 3)], 0],
    ['with pages of an excluded mapping', [{ ...at(0), address: 0xffff_ffff_ff60_0000n }], 0],
    ['with pages up to the end of all addresses', [top], 0],
  ])('%s is refused', async (_, records, offset) => {
    const { dir, manifest } = await smallImage();
    const table = pageTableOf(records);
    const loose = structuredClone(manifest) as unknown as Loose;
    Object.assign(loose.processes?.[0]?.pageTable as object, {
      entries: records.length,
      crc32c: naiveCrc32c(table, 0),
    });
    await replaceManifest(dir, loose);
    await writeFile(join(dir, 'pages-77.tbl'), table);
    expect((await expectCorrupt(dir, 'pages-77.tbl')).offset).toBe(offset);
  });

  test('whose record spans adjacent mappings is accepted, and one across a gap is not', async () => {
    const pageTable = pageTableOf([{ address: 0x1000n, pages: 3, shard: 0, offset: 0 }]);
    const shards = [new Uint8Array(3 * PAGE).fill(7)];
    const adjacent = [vmaOf(0x1000n, 1), vmaOf(0x2000n, 1), vmaOf(0x3000n, 1)];
    const dir = await temporaryDir();
    await writeTestImage({ dir, shards, processes: [processOf({ vmas: adjacent, pageTable })] });
    const image = await open(dir);
    expect(await image.read(77, 0x1fffn, 4098)).toEqual(new Uint8Array(4098).fill(7));
    await image.close();
    const gap = [vmaOf(0x1000n, 1), vmaOf(0x3000n, 1)];
    const other = await temporaryDir();
    const processes = [processOf({ vmas: gap, pageTable })];
    const error = await errorOf(writeTestImage({ dir: other, shards, processes }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  test('that is any bytes at all is refused or harmless', async () => {
    const { dir, manifest } = await smallImage();
    const word = fc.constantFrom(
      0n,
      1n,
      4096n,
      SMALL_START,
      SMALL_START + 4096n,
      2n ** 64n - 4096n,
    );
    const record = fc.tuple(word, fc.nat(9), fc.nat(2), word);
    await fc.assert(
      fc.asyncProperty(fc.array(record, { maxLength: 4 }), async (records) => {
        const table = Buffer.alloc(24 * records.length);
        records.forEach(([address, pages, shard, offset], i) => {
          table.writeBigUInt64LE(address, 24 * i);
          table.writeUInt32LE(pages, 24 * i + 8);
          table.writeUInt32LE(shard, 24 * i + 12);
          table.writeBigUInt64LE(offset, 24 * i + 16);
        });
        const loose = structuredClone(manifest) as unknown as Loose;
        Object.assign(loose.processes?.[0] as object, {
          pagesStored: records.reduce((sum, [, pages]) => sum + pages, 0),
        });
        Object.assign(loose.processes?.[0]?.pageTable as object, {
          entries: records.length,
          crc32c: naiveCrc32c(table, 0),
        });
        await replaceManifest(dir, loose);
        await writeFile(join(dir, 'pages-77.tbl'), table);
        try {
          await useSmallImage(dir);
        } catch (error) {
          expect(error).toMatchObject({
            code: 'ERR_SLUICE_IMAGE_CORRUPT',
            file: join(dir, 'pages-77.tbl'),
          });
        }
      }),
      { numRuns: 1000 },
    );
  });
});

test('a huge mapping costs nothing until it is read', async () => {
  const dir = await temporaryDir();
  const vmas = [vmaOf(0n, 2 ** 50), vmaOf(2n ** 63n, 2 ** 50, { kind: 'shared-memory' })];
  const shards = [new Uint8Array(PAGE).fill(9)];
  const pageTable = pageTableOf([{ address: 2n ** 62n - 4096n, pages: 1, shard: 0, offset: 0 }]);
  await writeTestImage({ dir, shards, processes: [processOf({ vmas, pageTable })] });
  const image = await open(dir);
  expect((await image.read(SMALL_PID, 2n ** 62n - 1n, 1))[0]).toBe(9);
  expect((await image.read(SMALL_PID, 2n ** 63n + 2n ** 61n, 1))[0]).toBe(0);
  await image.close();
});

function fileOf(path: string): object {
  return { path, device: 1n, inode: 1n, bytes: 1n, modifiedNs: 1n, changedNs: 1n };
}
