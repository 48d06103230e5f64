/**
 * Images of a real process, spoiled in ways that keep every checksum right: whatever is made of them,
 * and however they are used, they end in a typed error or in an answer, and nothing outside of their
 * directory is opened. `SLUICE_FUZZ_RUNS` is the number of cases of each kind, `SLUICE_FUZZ_SEED` where
 * they begin.
 */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { exportImage, openImage } from '@sluice/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fuzzOf } from '../harness/fuzz.js';
import { OpenedFiles, useImage } from '../harness/hostile_image.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess } from '../harness/patient.js';
import { startTarget } from '../harness/target.js';
import { naiveCrc32c, Raw, replaceManifest } from '../unit/image/support.js';

leakCheck();

const TABLE_RECORD_BYTES = 24;
/** Outlives the single test, unlike those of the harness. */
const root = realpathSync(mkdtempSync(join(tmpdir(), 'sluice-hostile-')));
let files: ReadonlySet<string>;
const at = (name: string) => join(root, name);

/** A chain of a small process, and the same for CRIU; each kept whole beside the copy that is spoiled. */
beforeAll(async () => {
  await using target = await startTarget('churn', ['still']);
  await dumpProcess(target.pid, { dir: at('sluice'), rounds: 2 });
  await exportImage(at('sluice'), at('criu'));
  // What reads it is loaded then: those files are none that an image leads to.
  await (await openImage(at('criu'))).close();
  await using image = await openImage(at('sluice'));
  const [process] = image.processes;
  files = new Set((process?.vmas ?? []).flatMap(({ file }) => (file === null ? [] : [file.path])));
  expect(image.chain).toHaveLength(3);
});

afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});

/** Runs a property over copies of an image, which are made whole again after each case. */
async function spoil<Case>(
  name: 'sluice' | 'criu',
  cases: fc.Arbitrary<Case>,
  runs: number,
  change: (copy: string, what: Case) => Promise<void> | void,
  everything = true,
): Promise<Map<string, number>> {
  const sound = at(name);
  const copy = at('copy');
  const answers = new Map<string, number>();
  using opened = new OpenedFiles();
  await fc.assert(
    fc.asyncProperty(cases, async (what) => {
      rmSync(copy, { recursive: true, force: true });
      cpSync(sound, copy, { recursive: true, verbatimSymlinks: true });
      await change(copy, what);
      const answer = (await useImage(copy, { sound, everything })) ?? 'none';
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
    }),
    fuzzOf(runs),
  );
  // Outputs are in directories of the harness.
  expect(opened.outside([root, join(realpathSync(tmpdir()), 'sluice-test-')], files)).toEqual([]);
  return answers;
}

type Tree = { [key: string | number]: unknown };

/** Places in a tree, each a list of keys; long lists by their first and last elements. */
function* placesIn(value: unknown, path: (string | number)[] = []): Generator<(string | number)[]> {
  if (typeof value !== 'object' || value === null) return;
  if (value instanceof Uint8Array || value instanceof Raw) return;
  const keys = Object.keys(value);
  const some = Array.isArray(value) ? [...keys.slice(0, 3), ...keys.slice(3).slice(-1)] : keys;
  for (const key of some) {
    const place = [...path, Array.isArray(value) ? Number(key) : key];
    yield place;
    yield* placesIn((value as Tree)[key], place);
  }
}

/** Values that mean harm, or are just beside what is right. */
const HARM = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    '',
    '/etc/shadow',
    '../../etc/passwd',
    '/proc/self/mem',
    '/dev/zero',
    '/dev/tty',
    'round-0001',
    '../round-0001',
    '\u001b[2J\u0007',
    'x'.repeat(70_000),
    Number.NaN,
    -1,
    2 ** 31,
    2 ** 53,
    2n ** 64n - 4096n,
    -(2n ** 63n),
    new Uint8Array(70_000),
    new Raw(0xdd, 0xff, 0xff, 0xff, 0xff),
    new Raw(0xdf, 0x7f, 0xff, 0xff, 0xff),
  ),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: 2n ** 52n }).map((page) => page * 4096n),
  fc.integer({ min: -10, max: 100_000 }),
);

const CHANGE = fc.record({
  level: fc.nat(2),
  edits: fc.array(
    fc.record({
      place: fc.nat(),
      how: fc.constantFrom('set', 'set', 'drop', 'twice', 'swap', 'other', 'add'),
      value: HARM,
      other: fc.nat(),
      by: fc.bigInt({ min: -8192n, max: 8192n }),
    }),
    { minLength: 1, maxLength: 3 },
  ),
});

/** MessagePack has integers from -2^63 to 2^64 - 1. */
function wrapped(sum: bigint): bigint {
  return sum < -(2n ** 63n) || sum >= 2n ** 64n ? BigInt.asUintN(64, sum) : sum;
}

type Edit = (typeof CHANGE extends fc.Arbitrary<infer T> ? T : never)['edits'][number];

function edit(manifest: Tree, { place, how, value, other, by }: Edit): void {
  const places = [...placesIn(manifest)];
  const path = places[place % places.length] ?? [];
  const parent = path.slice(0, -1).reduce<Tree>((tree, key) => tree[key] as Tree, manifest);
  const key = path.at(-1) ?? '';
  const get = (from: (string | number)[]) =>
    from.reduce<unknown>((tree, step) => (tree as Tree)[step], manifest);
  if (how === 'set') parent[key] = value;
  if (how === 'other') parent[key] = structuredClone(get(places[other % places.length] ?? []));
  if (how === 'add' && typeof parent[key] === 'bigint') parent[key] = wrapped(parent[key] + by);
  if (how === 'add' && typeof parent[key] === 'number') parent[key] += Number(by);
  if (!Array.isArray(parent)) {
    if (how === 'drop') delete parent[key];
    return;
  }
  if (how === 'drop') parent.splice(Number(key), 1);
  if (how === 'twice') parent.splice(Number(key), 0, structuredClone(parent[Number(key)]));
  if (how === 'swap') parent.push(...parent.splice(Number(key), 1));
}

/** Directories of the chain, newest first. */
function levelsOf(copy: string): string[] {
  return [copy, join(copy, 'round-0002'), join(copy, 'round-0001')];
}

const manifests = new Map<string, Tree>();

/** As decoded by a sound reader. */
async function manifestOf(level: number): Promise<Tree> {
  if (manifests.size === 0) {
    await using image = await openImage(at('sluice'));
    image.chain.forEach(({ manifest }, i) => {
      manifests.set(String(i), manifest as unknown as Tree);
    });
  }
  return structuredClone(manifests.get(String(level))) as Tree;
}

describe('an image of Sluice', () => {
  it('with a manifest that says something else', async () => {
    const answers = await spoil('sluice', CHANGE, 120, async (copy, { level, edits }) => {
      const manifest = await manifestOf(level);
      for (const each of edits) edit(manifest, each);
      await replaceManifest(levelsOf(copy)[level] ?? copy, manifest);
    });
    // Some of what is changed does no harm, and is not refused.
    expect([...answers.keys()]).toContain('none');
    expect(answers.get('ERR_SLUICE_IMAGE_CORRUPT')).toBeGreaterThan(30);
  });

  it('with page tables of any records', async () => {
    const record = fc.record({
      at: fc.nat(),
      field: fc.constantFrom('address', 'pages', 'shard', 'offset', 'drop', 'twice', 'swap'),
      word: fc.oneof(
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.nat(200).map((page) => BigInt(page) * 4096n),
        fc.constantFrom(0n, 0xffff_ffffn, 2n ** 64n - 4096n),
      ),
    });
    const changes = fc.record({
      level: fc.nat(2),
      records: fc.array(record, { minLength: 1, maxLength: 4 }),
    });
    await spoil('sluice', changes, 100, async (copy, { level, records }) => {
      const levelDir = levelsOf(copy)[level] ?? copy;
      const name = readdirSync(levelDir).find((file) => file.endsWith('.tbl')) ?? '';
      let table = readFileSync(join(levelDir, name));
      for (const each of records) table = editTable(table, each);
      writeFileSync(join(levelDir, name), table);
      const manifest = await manifestOf(level);
      const [process] = manifest.processes as Tree[];
      Object.assign(process?.pageTable as Tree, {
        entries: table.length / TABLE_RECORD_BYTES,
        crc32c: naiveCrc32c(table, 0),
      });
      Object.assign(process ?? {}, countsOf(table));
      await replaceManifest(levelDir, manifest);
    });
  });

  it('whose files are of another kind, or are cut, or are those of another', async () => {
    await spoil('sluice', FILE_CHANGES, 60, changeFile);
  });
});

describe('a directory of CRIU', () => {
  it('whose files are of another kind, or are cut, or are those of another', async () => {
    await spoil('criu', FILE_CHANGES, 60, changeFile);
  });

  it('with any bytes in them', async () => {
    const changes = fc.record({
      file: fc.nat(),
      bytes: fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
    });
    await spoil('criu', changes, 120, (copy, { file, bytes }) => {
      const names = readdirSync(copy).filter((name) => !name.startsWith('pages-'));
      const path = join(copy, names[file % names.length] ?? '');
      const content = readFileSync(path);
      for (const [place, value] of bytes) content[place % content.length] = value;
      writeFileSync(path, content);
    });
  });

  it('whose parents lead in circles, to devices and to nowhere', async () => {
    const targets = ['.', '..', 'self', '/dev', '/proc/self', '/proc/self/cwd', '/', 'parent'];
    const cases = fc.constantFrom(...targets, '/dev/null', '/nowhere', '../copy', './././.');
    await spoil('criu', cases, 20, (copy, parent) => {
      symlinkSync('.', join(copy, 'self'));
      symlinkSync(parent, join(copy, 'parent'));
    });
  });
});

const FILE_CHANGES = fc.record({
  file: fc.nat(),
  other: fc.nat(),
  how: fc.constantFrom(
    'link',
    'fifo',
    'directory',
    'device',
    'cut',
    'huge',
    'other',
    'gone',
    'loop',
  ),
  bytes: fc.nat(5000),
});

function changeFile(
  copy: string,
  { file, other, how, bytes }: typeof FILE_CHANGES extends fc.Arbitrary<infer T> ? T : never,
): void {
  const all = readdirSync(copy, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const path = all[file % all.length] ?? '';
  if (how === 'cut') truncateSync(path, bytes);
  // A hole of a terabyte takes no room on the disk.
  if (how === 'huge') truncateSync(path, 2 ** 40 + bytes * 4096);
  if (how === 'other') writeFileSync(path, readFileSync(all[other % all.length] ?? ''));
  if (['cut', 'huge', 'other'].includes(how)) return;
  unlinkSync(path);
  if (how === 'link') symlinkSync('/etc/passwd', path);
  if (how === 'loop') symlinkSync(basename(path), path);
  if (how === 'fifo') execFileSync('mkfifo', [path]);
  if (how === 'directory') mkdirSync(path);
  if (how === 'device') execFileSync('sh', ['-c', 'mknod "$1" c 1 5 || mkfifo "$1"', 'sh', path]);
}

function editTable(
  table: Buffer,
  change: { at: number; field: string; word: bigint },
): Buffer<ArrayBuffer> {
  const copy = Buffer.from(table);
  const count = copy.length / TABLE_RECORD_BYTES;
  if (count === 0) return copy;
  const start = (change.at % count) * TABLE_RECORD_BYTES;
  const end = start + TABLE_RECORD_BYTES;
  const [before, own, after] = [
    copy.subarray(0, start),
    copy.subarray(start, end),
    copy.subarray(end),
  ];
  switch (change.field) {
    case 'address':
      own.writeBigUInt64LE(change.word, 0);
      return copy;
    case 'pages':
      own.writeUInt32LE(Number(change.word & 0xffff_ffffn), 8);
      return copy;
    case 'shard':
      own.writeUInt32LE(Number(change.word & 0xffff_ffffn), 12);
      return copy;
    case 'offset':
      own.writeBigUInt64LE(change.word, 16);
      return copy;
    case 'drop':
      return Buffer.concat([before, after]);
    case 'twice':
      return Buffer.concat([before, own, own, after]);
    default:
      return Buffer.concat([before, after, own]);
  }
}

function countsOf(table: Buffer): { pagesStored: number; pagesInParent: number } {
  const counts = { pagesStored: 0, pagesInParent: 0 };
  for (let at = 0; at < table.length; at += TABLE_RECORD_BYTES) {
    const inParent = table.readUInt32LE(at + 12) === 0xffff_ffff;
    counts[inParent ? 'pagesInParent' : 'pagesStored'] += table.readUInt32LE(at + 8);
  }
  return counts;
}
