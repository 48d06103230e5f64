/** Images that build on others: what is read of which one, and what is refused. */
import { cp, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest } from '@sluice/core/image';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  below,
  IN_PARENT,
  own,
  roundName,
  SMALL_DATA,
  smallLevels,
  smallMemory,
  type TestLevel,
  writeSmallChain,
  writeTestChain,
} from './chain_support.js';
import {
  at,
  errorOf,
  naiveCrc32c,
  open,
  PAGE,
  pageTableOf,
  pattern,
  replaceManifest,
  type SluiceErrorLike,
  SMALL_PID,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeSmallImage,
} from './support.js';

const BYTES = 12 * PAGE;

async function smallChain(): Promise<{ dir: string; manifests: Manifest[] }> {
  const dir = await temporaryDir();
  return { dir, manifests: await writeSmallChain(dir) };
}

/** Writes a chain in which one image says something else. */
async function changedChain(
  level: number,
  change: Partial<Manifest> | ((manifest: Manifest) => Manifest),
): Promise<string> {
  const { dir, manifests } = await smallChain();
  const manifest = manifests[level] as Manifest;
  const changed = typeof change === 'function' ? change(manifest) : { ...manifest, ...change };
  await replaceManifest(level === 2 ? dir : join(dir, roundName(level + 1)), changed);
  return dir;
}

describe('a chain', () => {
  test('is read newest first, with dropped pages as zeros', async () => {
    const { dir } = await smallChain();
    await using image = await open(dir);
    const memory = smallMemory();
    expect(memory.equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
    // Every range, whatever borders of records are in it.
    for (let from = 0; from < 12; from += 1) {
      for (let to = from + 1; to <= 12; to += 1) {
        const [start, bytes] = [from * PAGE + 7, (to - from) * PAGE - 7];
        const got = await image.read(SMALL_PID, SMALL_START + BigInt(start), bytes);
        expect(memory.subarray(start, start + bytes).equals(got)).toBe(true);
      }
    }
  });

  test('tells of which images its pages come', async () => {
    const { dir, manifests } = await smallChain();
    await using image = await open(dir);
    expect([...image.runs(SMALL_PID)]).toEqual([
      { address: at(0), pages: 2, image: 2, shard: 0, offset: 0 },
      { address: at(2), pages: 2, image: 1, shard: 0, offset: 0 },
      { address: at(4), pages: 1, image: 1, shard: 0, offset: 2 * PAGE },
      { address: at(5), pages: 1, image: 2, shard: 0, offset: 5 * PAGE },
      { address: at(7), pages: 1, image: 0, shard: 0, offset: 0 },
      { address: at(8), pages: 1, image: 2, shard: 0, offset: 8 * PAGE },
    ]);
    const dirs = [dir, join(dir, 'round-0002'), join(dir, 'round-0001')];
    const newestFirst = manifests.toReversed();
    expect(image.chain).toEqual(dirs.map((dir, i) => ({ dir, manifest: newestFirst[i] })));
    expect(image.manifest).toMatchObject({ round: 3, parent: 'round-0002', consistency: 'frozen' });
    expect(image.processes).toMatchObject([{ pagesStored: 1, pagesInParent: 7 }]);
  });

  test('is verified in all its images, and damage is named', async () => {
    const { dir } = await smallChain();
    const path = join(dir, 'round-0001', 'shard-0000.img');
    {
      await using image = await open(dir);
      const expected = { images: 3, shards: 3, pieces: 5 + 2 + 1, bytes: 14 * PAGE };
      expect(await image.verify()).toEqual({ ...expected, checksum: 'crc32c' });
      const bytes = await readFile(path);
      bytes[3 * PAGE] = ~(bytes[3 * PAGE] ?? 0);
      await writeFile(path, bytes);
      const damage = { code: 'ERR_SLUICE_IMAGE_CORRUPT', file: path, offset: 2 * PAGE };
      expect(await errorOf(image.verify())).toMatchObject(damage);
    }
    await using image = await open(dir);
    await image.read(SMALL_PID, at(0), 2 * PAGE);
    // Page 3 is of round 2 now; nobody needs what is damaged.
    expect(await image.read(SMALL_PID, at(3), PAGE)).toHaveLength(PAGE);
  });

  test('is closed in all its images, and survives the loss of its directory until then', async () => {
    const { dir } = await smallChain();
    const image = await open(dir);
    await rm(dir, { recursive: true });
    expect(smallMemory().equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
    await image.close();
    expect(await errorOf(image.verify())).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  test('may be moved, and opened from where it is', async () => {
    const { dir } = await smallChain();
    const moved = join(await temporaryDir(), 'moved');
    await rename(dir, moved);
    await mkdir(dir);
    for (const path of [moved, `${moved}/`, join(moved, 'round-0002', '..')]) {
      await using image = await open(path);
      expect(image.chain).toHaveLength(3);
    }
  });

  test('of images of which one has no checksums has none', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    await writeTestChain(dir, [first, { ...second, more: { checksum: 'none' } }, third]);
    await using image = await open(dir);
    expect(await image.verify()).toMatchObject({ checksum: 'none', pieces: 6 });
    expect(smallMemory().equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
  });

  test('may have rounds with other mappings than the final ones', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    const vmas = [vmaOf(SMALL_START, 8, { protection: 'r--' }), vmaOf(at(8), 100)];
    await writeTestChain(dir, [{ ...first, vmas }, { ...second, vmas }, third]);
    await using image = await open(dir);
    expect(smallMemory().equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
    const error = await errorOf(image.read(SMALL_PID, at(12), 1));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_NOT_MAPPED' });
  });

  test('may leave pages to an image that is frozen, and through it to others', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    const rounds = [{ kind: 'final' as const, pagesWritten: 0, bytesWritten: 0, times: {} }];
    const frozen = { ...second, more: { consistency: 'frozen' as const, rounds } };
    frozen.records = [below(0, 2), ...second.records];
    await writeTestChain(dir, [first, frozen, third]);
    await using image = await open(dir);
    expect(smallMemory().equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
  });
});

describe('a live image', () => {
  test('without a parent is opened and read, and says what it is', async () => {
    const { dir } = await smallChain();
    await using image = await open(join(dir, 'round-0001'));
    expect(image.manifest).toMatchObject({ consistency: 'live', round: 1, parent: null });
    const expected = Buffer.concat([SMALL_DATA[0], Buffer.alloc(3 * PAGE)]);
    expect(expected.equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
  });

  test('with a parent has pages of its own, then those below, then what its mappings say', async () => {
    const { dir } = await smallChain();
    await using image = await open(join(dir, 'round-0002'));
    expect(image.chain.map(({ manifest }) => manifest.round)).toEqual([2, 1]);
    const [first, second] = SMALL_DATA;
    const expected = Buffer.concat([
      first.subarray(0, 2 * PAGE),
      second.subarray(0, 3 * PAGE),
      first.subarray(5 * PAGE),
      second.subarray(3 * PAGE),
      Buffer.alloc(2 * PAGE),
    ]);
    expect(expected.equals(await image.read(SMALL_PID, SMALL_START, BYTES))).toBe(true);
    expect([...image.runs(SMALL_PID)].map(({ image, pages }) => [image, pages])).toEqual([
      [1, 2],
      [0, 3],
      [1, 4],
      [0, 1],
    ]);
  });

  test('has nothing of its parent where it has no mapping, or says that it has no bytes', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    const vmas = [
      vmaOf(at(1), 6),
      vmaOf(at(7), 1, { kind: 'excluded', leftOut: 'a device' }),
      vmaOf(at(9), 3),
    ];
    const leftOut = [{ start: at(5), end: at(6), reason: 'poisoned' }];
    await writeTestChain(dir, [first, { ...second, vmas, leftOut }, third]);
    await using image = await open(join(dir, 'round-0002'));
    const codes = await Promise.all(
      [0, 1, 5, 6, 7, 8, 9].map(async (page) => {
        const read = image.read(SMALL_PID, at(page), 1);
        return read.then((bytes) => bytes.length).catch(({ code }) => code);
      }),
    );
    const [gone, leftOutCode] = ['ERR_SLUICE_NOT_MAPPED', 'ERR_SLUICE_LEFT_OUT'];
    expect(codes).toEqual([gone, 1, leftOutCode, 1, leftOutCode, gone, 1]);
    expect([...image.runs(SMALL_PID)].map(({ address, pages }) => [address, pages])).toEqual([
      [at(1), 1],
      [at(2), 3],
      [at(6), 1],
      [at(9), 1],
    ]);
  });

  test('is found through a link to its directory, with the parent beside it', async () => {
    const { dir } = await smallChain();
    const link = join(await temporaryDir(), 'link');
    await symlink(join(dir, 'round-0002'), link);
    await using image = await open(link);
    expect(image.chain.map(({ dir }) => dir)).toEqual([link, join(dir, 'round-0001')]);
  });

  test('cannot leave pages to its parent in so many words', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    const records = [below(0, 1), ...second.records];
    const error = await errorOf(writeTestChain(dir, [first, { ...second, records }, third]));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    expect(error.message).toContain('pages in a parent, which this image cannot have');
  });
});

describe('a parent', () => {
  const corrupt = 'ERR_SLUICE_IMAGE_CORRUPT';

  test.each<[string, (dir: string) => Promise<unknown>, string, string]>([
    ['that is missing', (dir) => rm(dir, { recursive: true }), corrupt, 'no such directory'],
    [
      'that is a link',
      async (dir) => {
        await rename(dir, `${dir}-real`);
        await symlink(`${dir}-real`, dir);
      },
      corrupt,
      'no real directory',
    ],
    [
      'that is a file',
      async (dir) => {
        await rm(dir, { recursive: true });
        await writeFile(dir, '');
      },
      corrupt,
      'no real directory',
    ],
    [
      'that was not finished',
      (dir) => rm(join(dir, 'manifest.msgpack')),
      'ERR_SLUICE_IMAGE_UNFINISHED',
      'unfinished',
    ],
    ['without its shard', (dir) => rm(join(dir, 'shard-0000.img')), corrupt, 'missing'],
    ['without its page table', (dir) => rm(join(dir, 'pages-77.tbl')), corrupt, 'missing'],
  ])('%s is refused by name', async (_, spoil, code, said) => {
    for (const round of ['round-0001', 'round-0002']) {
      const { dir } = await smallChain();
      await spoil(join(dir, round));
      const error = await errorOf(open(dir));
      expect(error).toMatchObject({ code });
      expect(error.file).toMatch(`${dir}/${round}`);
      expect(error.message).toContain(said);
    }
  });

  test.each([
    '',
    '.',
    '..',
    '../..',
    '/tmp/round-0001',
    'round-1',
    'round-00001',
    'round-0000',
    'round-0001/',
    'round-0001/../..',
    './round-0001',
    '../../round-0001',
    'round-0001\n',
    'round-0001\0',
    'ROUND-0001',
    'round-000１',
    '../round-0001',
  ])('named %j is refused', async (parent) => {
    const dir = await changedChain(2, { parent });
    const file = join(dir, 'manifest.msgpack');
    const error = await errorOf(open(dir));
    expect(error).toMatchObject({ code: corrupt, file });
    expect(error.message).toContain('parent: ');
    expect(error.offset).toBe((await readFile(file)).indexOf('parent') + 'parent'.length);
  });

  test('of a round is beside it, never in it', async () => {
    const dir = await changedChain(1, { parent: 'round-0001' });
    const round = join(dir, 'round-0002');
    await cp(join(dir, 'round-0001'), join(round, 'round-0001'), { recursive: true });
    const error = await errorOf(open(dir));
    expect(error).toMatchObject({ code: corrupt, file: join(round, 'manifest.msgpack') });
    expect(error.message).toContain('cannot be named by the image of a round');
    // Opened alone it may be the directory of a session with such a name.
    await using image = await open(round);
    expect(image.chain).toHaveLength(2);
  });

  test.each<[string, number, Partial<Manifest> | ((manifest: Manifest) => Manifest), RegExp]>([
    ['of another session', 0, { session: 'f'.repeat(32) }, /session: f+ is the parent of one of/],
    ['of the same round', 0, { round: 2 }, /round: 2 is the parent of round 2/],
    ['of a later round', 1, { round: 4 }, /round: 4 is the parent of round 3/],
    ['that names itself', 0, { parent: '../round-0001' }, /round: 1 is the parent of round 1/],
    ['that names its child', 0, { parent: '../round-0002' }, /round: 2 is the parent of round 1/],
    [
      'of a process that started at another time',
      0,
      (manifest) => ({
        ...manifest,
        processes: manifest.processes.map((each) => ({ ...each, startTimeTicks: 5n })),
      }),
      /processes.0.startTimeTicks: 5 is 12345/,
    ],
    [
      'of more processes',
      0,
      (manifest) => ({
        ...manifest,
        processes: [
          ...manifest.processes,
          ...manifest.processes.map((each) => ({
            ...each,
            pid: 78,
            pageTable: { ...each.pageTable, file: 'pages-78.tbl' },
          })),
        ],
      }),
      /processes.1.pid: 78 is not in the image above/,
    ],
  ])('%s is refused', async (_, level, change, said) => {
    const error = await errorOf(open(await changedChain(level, change)));
    expect(error).toMatchObject({ code: corrupt });
    expect(error.message).toMatch(said);
    expect(error.file).toMatch(/manifest\.msgpack$/);
    expect(error.offset).toBeGreaterThan(0);
  });

  test('of another process is refused', async () => {
    const dir = await temporaryDir();
    const [first, second, third] = smallLevels();
    await writeTestChain(dir, [{ ...first, process: { pid: 78 } }, second, third]);
    const error = await errorOf(open(dir));
    const file = join(dir, 'round-0001', 'manifest.msgpack');
    expect(error).toMatchObject({ code: corrupt, file });
    expect(error.message).toContain('78 is not in the image above');
  });

  test('of fewer processes is refused', async () => {
    const dir = await changedChain(1, (manifest) => ({
      ...manifest,
      processes: manifest.processes.flatMap((each) => [
        each,
        { ...each, pid: 79, pageTable: { ...each.pageTable, file: 'pages-79.tbl' } },
      ]),
    }));
    // Where round 1 is opened by round 2, which has one more; opened below it alone, all is well.
    const error = await errorOf(open(join(dir, 'round-0002')));
    expect(error.message).toContain('processes: are not all of those in the image above');
  });

  test('that is frozen cannot have a live child', async () => {
    const rounds = [{ kind: 'final' as const, pagesWritten: 0, bytesWritten: 0, times: {} }];
    const dir = await changedChain(0, { consistency: 'frozen', rounds });
    const error = await errorOf(open(dir));
    expect(error.message).toContain('consistency: a frozen image is the parent of a live one');
  });

  test('of a damaged page table is refused as in an image alone', async () => {
    const { dir } = await smallChain();
    const path = join(dir, 'round-0001', 'pages-77.tbl');
    const bytes = await readFile(path);
    bytes[8] = 200;
    await writeFile(path, bytes);
    expect(await errorOf(open(dir))).toMatchObject({ code: corrupt, file: path, offset: 0 });
  });
});

describe('pages that are left to the chain below', () => {
  test.each<[string, TestLevel['records'], number]>([
    ['that no image has', [below(0, 2), below(10, 1)], 24],
    ['of which the last is not there', [below(0, 11)], 0],
    ['of which one in the middle is not there', [below(0, 1), below(8, 3)], 24],
  ])('%s are refused with the offset of the record', async (_, records, offset) => {
    const dir = await temporaryDir();
    const [first, second] = smallLevels();
    await writeTestChain(dir, [first, second, { records }]);
    const error = await errorOf(open(dir));
    const file = join(dir, 'pages-77.tbl');
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file, offset });
    expect(error.message).toContain('no image below has');
  });

  test('are refused where there is no chain, or with an offset', async () => {
    const dir = await temporaryDir();
    const alone = await errorOf(writeTestChain(dir, [{ records: [below(0, 1)] }]));
    expect(alone).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    const [first, second] = smallLevels();
    const records = [{ ...below(0, 1), offset: PAGE }];
    const offset = await errorOf(
      writeTestChain(await temporaryDir(), [first, second, { records }]),
    );
    expect(offset.message).toContain('pages in a parent with an offset');
  });

  test('are counted', async () => {
    const dir = await changedChain(2, (manifest) => ({
      ...manifest,
      processes: manifest.processes.map((each) => ({ ...each, pagesInParent: 6 })),
    }));
    const error = await errorOf(open(dir));
    expect(error.message).toContain('pagesInParent is 7 pages where the manifest has 6');
  });
});

describe('whatever a chain says', () => {
  const harmless = /^ERR_SLUICE_(IMAGE_CORRUPT|IMAGE_UNFINISHED|NOT_MAPPED|LEFT_OUT)$/;

  async function readAll(dir: string): Promise<void> {
    await using image = await open(dir);
    await image.verify();
    for (const _ of image.runs(SMALL_PID));
    await image.read(SMALL_PID, SMALL_START, BYTES);
  }

  test('of how it hangs together is refused or harmless', async () => {
    const { dir, manifests } = await smallChain();
    const names = ['', 'round-0001', 'round-0002', '../round-0001', '../round-0002', '../x'];
    const values = [null, true, -1, 0, 1, 2, 3, 0.5, 2 ** 53, Number.NaN, 1n, [], {}, ...names];
    const keys = ['consistency', 'session', 'round', 'parent', 'rounds'] as const;
    for (const [i, manifest] of manifests.entries()) {
      const levelDir = i === 2 ? dir : join(dir, roundName(i + 1));
      const file = join(levelDir, 'manifest.msgpack');
      const before = await readFile(file);
      for (const key of keys) {
        for (const value of [...values, 'live', 'frozen', 'f'.repeat(32)]) {
          await replaceManifest(levelDir, { ...manifest, [key]: value });
          await readAll(dir).catch((error: SluiceErrorLike) => {
            expect(error.code, `${key} = ${String(value)}: ${error}`).toMatch(harmless);
          });
        }
      }
      await writeFile(file, before);
    }
    await readAll(dir);
  });

  test('in the page tables of any image is refused or harmless', async () => {
    const { dir, manifests } = await smallChain();
    const record = fc.tuple(fc.nat(13), fc.nat(13), fc.constantFrom(0, 0, 1, IN_PARENT), fc.nat(9));
    const tables = fc.tuple(fc.nat(2), fc.array(record, { maxLength: 6 }));
    let accepted = 0;
    await fc.assert(
      fc.asyncProperty(tables, async ([i, drawn]) => {
        const levelDir = i === 2 ? dir : join(dir, roundName(i + 1));
        const [file, path] = ['manifest.msgpack', 'pages-77.tbl'].map((name) =>
          join(levelDir, name),
        );
        const before = await Promise.all([file, path].map((name) => readFile(name ?? '')));
        const sorted = drawn.toSorted((a, b) => a[0] - b[0]);
        const records = sorted.map(([page, pages, shard, offset]) => ({
          address: at(page),
          pages,
          shard,
          offset: shard === IN_PARENT ? 0 : offset * PAGE,
        }));
        const table = pageTableOf(records);
        const count = (inParent: boolean) =>
          records
            .filter(({ shard }) => (shard === IN_PARENT) === inParent)
            .reduce((sum, { pages }) => sum + pages, 0);
        const manifest = manifests[i] as Manifest;
        const processes = manifest.processes.map((each) => ({
          ...each,
          pageTable: {
            ...each.pageTable,
            entries: records.length,
            crc32c: naiveCrc32c(table, 0),
          },
          pagesStored: count(false),
          pagesInParent: count(true),
        }));
        await replaceManifest(levelDir, { ...manifest, processes });
        await writeFile(path ?? '', table);
        try {
          await readAll(dir);
          accepted += 1;
        } catch (error) {
          const top = join(dir, 'pages-77.tbl');
          expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
          expect([path, top]).toContain((error as SluiceErrorLike).file);
        }
        await writeFile(file ?? '', before[0] ?? '');
        await writeFile(path ?? '', before[1] ?? '');
      }),
      { numRuns: 500 },
    );
    expect(accepted).toBeGreaterThan(5);
  });
});

describe('the rounds of an image', () => {
  const round = { pagesWritten: 0, bytesWritten: 0, times: {} };
  const live = { ...round, kind: 'live' as const };
  const final = { ...round, kind: 'final' as const };
  test.each([
    ['that is frozen end with the final one', 2, [live], 0],
    ['that is frozen have one final one', 2, [final, final], 0],
    ['that is live are live', 1, [live, final], 1],
  ])('%s', async (_, level, rounds, wrong) => {
    const error = await errorOf(open(await changedChain(level, { rounds })));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
    expect(error.message).toContain(`rounds.${wrong}.kind`);
  });
});

describe('bounds', () => {
  test('a chain of 256 images is read, and one of 257 refused', async () => {
    const dir = await temporaryDir();
    const levels = Array.from({ length: 256 }, (_, i) => ({
      records: [own(i % 12, 1, 0)],
      shards: [pattern(PAGE, i)],
    }));
    const records = [below(0, 12)];
    await writeTestChain(dir, [...levels.slice(1), { records }]);
    {
      await using image = await open(dir);
      expect(image.chain).toHaveLength(256);
      // The last image that wrote page n is the last i with i % 12 = n.
      const got = await image.read(SMALL_PID, at(3), PAGE);
      expect(Buffer.from(got).equals(pattern(PAGE, 255))).toBe(true);
    }
    const longer = await temporaryDir();
    await writeTestChain(longer, [...levels, { records }]);
    const error = await errorOf(open(longer));
    const file = join(longer, 'round-0001', 'manifest.msgpack');
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file });
    expect(error.message).toContain('more than 256 images');
  });

  test('a chain of more shards than may be open is refused before they are opened', async () => {
    const dir = await temporaryDir();
    const shards = Array.from({ length: 513 }, () => new Uint8Array());
    const top = { records: [], shards };
    await writeTestChain(dir, [top, top]);
    await rm(join(dir, 'shard-0000.img'));
    const error = await errorOf(open(dir));
    const file = join(dir, 'round-0001', 'manifest.msgpack');
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file });
    expect(error.message).toContain('more than 1024 shards');
  });
});

test('an image that is no chain has one image in it', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  await using image = await open(dir);
  expect(image.chain).toEqual([{ dir, manifest: image.manifest }]);
});
