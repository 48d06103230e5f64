/**
 * Chains of any make, compared page by page with a reader so simple that it cannot be wrong, which has
 * a map from page to bytes for each image; and the same again after they were flattened.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { flattenImage, type Image, nativeCrc32c } from '@sluice/core/image';
import type { CapturedVma, LeftOutRange } from '@sluice/native';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  below,
  FINAL_ROUND,
  IN_PARENT,
  LIVE_ROUND,
  own,
  roundName,
  type TestLevel,
  writeTestChain,
} from './chain_support.js';
import { at, open, PAGE, pattern, SMALL_PID, type TestRecord, vmaOf } from './support.js';

const PAGES = 48;
const SHARDS = 2;

type Page = Uint8Array | string;
const GONE = 'ERR_SLUICE_NOT_MAPPED';
const LEFT_OUT = 'ERR_SLUICE_LEFT_OUT';

const KINDS = ['anonymous', 'anonymous', 'shared-memory', 'vdso', 'excluded'] as const;
const FATES = ['own', 'own', 'alias', 'left-out', 'below', 'below', 'below', 'none'] as const;

const imageArbitrary = fc.record({
  vmas: fc.array(
    fc.record({
      gap: fc.constantFrom(0, 0, 1, 3),
      pages: fc.integer({ min: 4, max: 20 }),
      kind: fc.constantFrom(...KINDS),
    }),
    { minLength: 2, maxLength: 6 },
  ),
  // In stretches, so that records of several pages come about.
  fates: fc.array(fc.tuple(fc.constantFrom(...FATES), fc.integer({ min: 1, max: 6 })), {
    minLength: PAGES,
    maxLength: PAGES,
  }),
  checksum: fc.constantFrom('crc32c' as const, 'crc32c' as const, 'none' as const),
});

/** What the naive reader knows of one image. */
interface Naive {
  level: TestLevel;
  /** In its shards, by page; with a name that tells whether two are the same bytes. */
  data: Map<number, { bytes: Uint8Array; name: string }>;
  kinds: Map<number, string>;
  leftOut: Set<number>;
  below: Set<number>;
}

type Drawn = typeof imageArbitrary extends fc.Arbitrary<infer T> ? T : never;

function layOut(drawn: Drawn, index: number, isTop: boolean, older: readonly Naive[]): Naive {
  const kinds = new Map<number, string>();
  const vmas: CapturedVma[] = [];
  let next = 0;
  for (const { gap, pages, kind } of drawn.vmas) {
    const start = next + gap;
    next = Math.min(start + pages, PAGES);
    if (start >= next) break;
    vmas.push(vmaOf(at(start), next - start, { kind, leftOut: kind === 'excluded' ? 'no' : '' }));
    for (let page = start; page < next; page += 1) kinds.set(page, kind);
  }
  const shards = Array.from({ length: SHARDS }, (_, n) => pattern(PAGES * PAGE, 10 * index + n));
  const used = shards.map(() => 0);
  const fates = drawn.fates.flatMap(([fate, times]) => Array<string>(times).fill(fate));
  const naive: Naive = {
    level: { records: [], more: { checksum: drawn.checksum } },
    data: new Map(),
    kinds,
    leftOut: new Set(),
    below: new Set(),
  };
  const records: TestRecord[] = [];
  const leftOut: LeftOutRange[] = [];
  for (let page = 0; page < PAGES; page += 1) {
    const kind = kinds.get(page);
    if (kind === undefined || kind === 'excluded') continue;
    const fate = fates[page];
    const last = records.findLast(({ shard }) => shard !== IN_PARENT);
    if (fate === 'own') {
      const shard = Math.floor(page / 5) % SHARDS;
      add(records, own(page, 1, used[shard] ?? 0, shard));
      used[shard] = (used[shard] ?? 0) + 1;
    } else if (fate === 'alias' && last !== undefined) {
      add(records, { ...own(page, 1, 0), shard: last.shard, offset: last.offset });
    } else if (fate === 'left-out') {
      leftOut.push({ start: at(page), end: at(page + 1), reason: 'unreadable' });
      naive.leftOut.add(page);
    } else if (fate === 'below' && isTop && older.some(({ data }) => data.has(page))) {
      add(records, below(page, 1));
      naive.below.add(page);
    }
  }
  for (const { address, pages, shard, offset } of records) {
    if (shard === IN_PARENT) continue;
    for (let i = 0; i < pages; i += 1) {
      const from = offset + i * PAGE;
      const bytes = (shards[shard] as Uint8Array).subarray(from, from + PAGE);
      const page = Number((address - at(0)) / BigInt(PAGE)) + i;
      naive.data.set(page, { bytes, name: `${index} ${shard} ${from}` });
    }
  }
  Object.assign(naive.level, { records, leftOut, vmas, shards });
  return naive;
}

/** Joins a record of one page to the last one if it continues it. */
function add(records: TestRecord[], record: TestRecord): void {
  const last = records.at(-1);
  const bytes = (last?.pages ?? 0) * PAGE;
  const continues =
    last !== undefined &&
    last.shard === record.shard &&
    last.address + BigInt(bytes) === record.address &&
    (record.shard === IN_PARENT || last.offset + bytes === record.offset);
  if (continues) last.pages += 1;
  else records.push(record);
}

/** A page of the last image of a chain that is oldest first. */
function naivePage(chain: readonly Naive[], page: number): Page {
  const top = chain.at(-1) as Naive;
  const kind = top.kinds.get(page);
  if (kind === undefined) return GONE;
  const source = naiveSource(chain, page);
  if (source !== undefined) return source.bytes;
  if (top.leftOut.has(page) || kind === 'excluded' || kind === 'vdso') return LEFT_OUT;
  return new Uint8Array(PAGE);
}

function naiveSource(chain: readonly Naive[], page: number) {
  const top = chain.at(-1) as Naive;
  const isLive = top.level.more?.consistency === 'live';
  const kind = top.kinds.get(page);
  if (top.data.has(page) || kind === undefined || kind === 'excluded') return top.data.get(page);
  const looksBelow = isLive ? !top.leftOut.has(page) : top.below.has(page);
  return looksBelow ? chain.findLast(({ data }) => data.has(page))?.data.get(page) : undefined;
}

async function expectSame(image: Image, chain: readonly Naive[], reads: readonly number[][]) {
  for (let page = 0; page < PAGES; page += 1) {
    await expectRange(image, chain, page * PAGE, PAGE);
  }
  for (const [from = 0, bytes = 0] of reads) await expectRange(image, chain, from, bytes);
}

async function expectRange(image: Image, chain: readonly Naive[], from: number, bytes: number) {
  const pages: Buffer[] = [];
  let expected: Buffer | string | undefined;
  const firstPage = Math.floor(from / PAGE);
  for (let page = firstPage; bytes > 0 && page * PAGE < from + bytes; page += 1) {
    const found = naivePage(chain, page);
    if (typeof found === 'string') {
      expected = found;
      break;
    }
    pages.push(Buffer.from(found));
  }
  expected ??= Buffer.concat(pages).subarray(from % PAGE, (from % PAGE) + bytes);
  const got = await image
    .read(SMALL_PID, at(0) + BigInt(from), bytes)
    .catch(({ code }: { code: string }) => code);
  const same =
    typeof expected === 'string' || typeof got === 'string'
      ? expected === got
      : expected.equals(got);
  if (!same) expect(got).toEqual(expected);
}

/** The stored pages by the naive reader: page, and the bytes' name. */
function naiveStored(chain: readonly Naive[]): Map<number, string> {
  const stored = new Map<number, string>();
  for (let page = 0; page < PAGES; page += 1) {
    const source = naiveSource(chain, page);
    if (source !== undefined) stored.set(page, source.name);
  }
  return stored;
}

function storedOf(image: Image, images: number): Map<number, string> {
  const stored = new Map<number, string>();
  let end = 0n;
  for (const run of image.runs(SMALL_PID)) {
    expect(run.address >= end && run.pages > 0).toBe(true);
    end = run.address + BigInt(run.pages * PAGE);
    for (let i = 0; i < run.pages; i += 1) {
      const page = Number((run.address - at(0)) / BigInt(PAGE)) + i;
      const level = images - 1 - run.image;
      stored.set(page, `${level} ${run.shard} ${run.offset + i * PAGE}`);
    }
  }
  return stored;
}

test('chains and what they are flattened to agree with the naive reader', async () => {
  const root = await mkdtemp(join(tmpdir(), 'sluice-chain-'));
  let chains = 0;
  const seen = { lookedBelow: 0, aliased: 0, live: 0, bytes: 0 };
  const ranges = fc.array(fc.tuple(fc.nat((PAGES - 1) * PAGE), fc.nat(12 * PAGE)), {
    minLength: 30,
    maxLength: 30,
  });
  const images = fc.array(imageArbitrary, { minLength: 1, maxLength: 5 });
  const check = async (drawn: Drawn[], isLive: boolean, reads: number[][]): Promise<void> => {
    chains += 1;
    const dir = join(root, String(chains));
    await mkdir(dir);
    const levels: Naive[] = [];
    for (const [i, each] of drawn.entries()) {
      const isTop = i === drawn.length - 1;
      const naive = layOut(each, i, isTop && !isLive, levels);
      const live = {
        consistency: 'live' as const,
        rounds: drawn.slice(0, i + 1).map(() => LIVE_ROUND),
      };
      const final = { rounds: [...drawn.slice(1).map(() => LIVE_ROUND), FINAL_ROUND] };
      Object.assign(naive.level.more ?? {}, isTop && !isLive ? final : live);
      levels.push(naive);
    }
    await writeTestChain(
      dir,
      levels.map(({ level }) => level),
    );
    const stored = naiveStored(levels);
    const out = join(root, `${chains}-flat`);
    {
      await using image = await open(dir);
      expect(image.chain).toHaveLength(drawn.length);
      await expectSame(image, levels, reads);
      expect(storedOf(image, drawn.length)).toEqual(stored);
      await image.verify();
    }
    const result = await flattenImage(dir, { dir: out, crc32c: nativeCrc32c });
    const unique = new Set(stored.values()).size;
    expect(result).toEqual({
      dir: out,
      images: drawn.length,
      pages_written: unique,
      bytes_written: unique * PAGE,
    });
    await using flat = await open(out);
    expect(flat.manifest.parent).toBeNull();
    expect(flat.manifest.shards).toHaveLength(SHARDS);
    await expectSame(flat, levels, reads);
    expect([...storedOf(flat, 1).keys()]).toEqual([...stored.keys()]);
    expect(await flat.verify()).toMatchObject({ images: 1, bytes: unique * PAGE });
    seen.lookedBelow += [...stored.values()].filter(
      (name) => !name.startsWith(`${drawn.length - 1} `),
    ).length;
    seen.aliased += stored.size - unique;
    seen.live += Number(isLive && drawn.length > 1);
    seen.bytes += result.bytes_written;
    await rm(dir, { recursive: true });
    await rm(out, { recursive: true });
  };
  try {
    // The limit ends the search for a smaller example before the test's own time is over.
    const limits = { numRuns: 80, interruptAfterTimeLimit: 45_000 };
    await fc.assert(fc.asyncProperty(images, fc.boolean(), ranges, check), limits);
    // What was compared was worth it; a tenth of what is usual, for the draws differ.
    expect(seen.lookedBelow).toBeGreaterThan(30);
    expect(seen.aliased).toBeGreaterThan(20);
    expect(seen.live).toBeGreaterThan(3);
    expect(seen.bytes).toBeGreaterThan(256 * 1024);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
});

test('each image of a chain reads as the newest one of its own chain', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-chain-'));
  try {
    const drawn = fc.sample(imageArbitrary, { numRuns: 6, seed: 7 });
    const levels: Naive[] = [];
    for (const [i, each] of drawn.entries()) {
      const naive = layOut(each, i, i === drawn.length - 1, levels);
      if (i < drawn.length - 1) Object.assign(naive.level.more ?? {}, { consistency: 'live' });
      levels.push(naive);
    }
    await writeTestChain(
      dir,
      levels.map(({ level }) => level),
    );
    for (let i = 1; i <= levels.length; i += 1) {
      await using image = await open(i === levels.length ? dir : join(dir, roundName(i)));
      await expectSame(image, levels.slice(0, i), []);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
