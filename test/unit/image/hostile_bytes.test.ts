/**
 * Page tables and manifests of any bytes, in memory and so in great numbers: tables against a reader
 * that does it the slow way, manifests with the right checksum. `SLUICE_FUZZ_RUNS` cases of each.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '@sluice/core';
import { nativeCrc32c } from '@sluice/core/image';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeManifest, HEADER_BYTES } from '../../../packages/core/dist/image/manifest_codec.js';
import { Mappings } from '../../../packages/core/dist/image/mappings.js';
import { PageTableFault, PageTableLoader } from '../../../packages/core/dist/image/page_table.js';
import { fuzzOf } from '../../harness/fuzz.js';
import { IN_PARENT } from './chain_support.js';
import {
  PAGE,
  pageTableOf,
  type TestRecord,
  temporaryDir,
  vmaOf,
  writeSmallImage,
} from './support.js';

const RECORD_BYTES = 24;
const START = 2n ** 64n - 64n * 4096n;
const at = (page: number) => START + BigInt(page * PAGE);
/** Pages 0 to 9 and 10 to 19 beside each other, then a gap, one that is left out, and the last page. */
const VMAS = [
  vmaOf(at(0), 10),
  vmaOf(at(10), 10),
  vmaOf(at(24), 4, { kind: 'excluded', leftOut: 'no' }),
  vmaOf(at(28), 36),
].map((vma) => ({ ...vma, file: null }));
const SHARD_PAGES = [16, 0, 200];
const SHARDS = SHARD_PAGES.map((pages) => ({
  ...{ file: '', bytes: BigInt(pages * PAGE), crcs: new Uint8Array() },
}));

/** Index of the first record that must not be, or -1, page by page. */
function naiveFault(records: readonly TestRecord[], mayLeaveToParent: boolean): number {
  let last = 0n;
  return records.findIndex(({ address, pages, shard, offset }) => {
    const inParent = shard === IN_PARENT;
    if (inParent ? !mayLeaveToParent || offset !== 0 : SHARD_PAGES[shard] === undefined)
      return true;
    if (address % 4096n !== 0n || offset % PAGE !== 0 || pages === 0 || address < last) return true;
    // More than there are in any shard, or in all mappings.
    if (pages > 200) return true;
    for (let i = 0; i < pages; i += 1) {
      const page = address + BigInt(i * PAGE);
      const vma = VMAS.find(({ start, end }) => start <= page && page < end);
      if (vma === undefined || vma.kind === 'excluded') return true;
      if (!inParent && offset / PAGE + i >= (SHARD_PAGES[shard] ?? 0)) return true;
    }
    last = address + BigInt(pages * PAGE);
    return false;
  });
}

const few = (most: number) => fc.integer({ min: 0, max: most });
const rarely = <T>(usual: fc.Arbitrary<T>, odd: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 24, arbitrary: usual }, { weight: 1, arbitrary: odd });
const record = fc.record({
  gap: rarely(
    few(3).map((n) => (n === 3 ? 1 : 0)),
    fc.integer({ min: -70, max: 70 }),
  ),
  skew: rarely(fc.constant(0), few(4095)),
  pages: rarely(
    few(5).map((n) => n + 1),
    fc.constantFrom(0, 64, 2 ** 20, 2 ** 32 - 1),
  ),
  shard: rarely(fc.constantFrom(0, 2, 2, IN_PARENT), fc.constantFrom(1, 3, IN_PARENT - 1)),
  offset: rarely(
    few(12).map((n) => n * PAGE),
    fc.constantFrom(1, 4095, 2 ** 40, 2 ** 53 - PAGE),
  ),
});
type Draw = typeof record extends fc.Arbitrary<infer T> ? T : never;

/** One after the other for the most part, so that most of a table is good. */
function layOut(draws: readonly Draw[]): TestRecord[] {
  let next = START;
  return draws.map(({ gap, skew, pages, shard, offset }) => {
    const address = BigInt.asUintN(64, next + BigInt(gap * PAGE + skew));
    next = address + BigInt(pages * PAGE);
    return { address, pages, shard, offset: shard === IN_PARENT ? offset % (2 * PAGE) : offset };
  });
}

test('page tables are taken and refused as by a reader that looks at every page', () => {
  const seen = { good: 0, bad: 0 };
  const cases = fc.tuple(fc.array(record, { maxLength: 8 }), fc.boolean());
  fc.assert(
    fc.property(cases, ([draws, mayLeaveToParent]) => {
      const records = layOut(draws);
      const loader = new PageTableLoader(new Mappings({ vmas: VMAS }), SHARDS, mayLeaveToParent);
      let fault = -1;
      try {
        loader.add(pageTableOf(records));
      } catch (error) {
        if (!(error instanceof PageTableFault)) throw error;
        fault = error.offset / RECORD_BYTES;
      }
      expect(fault).toBe(naiveFault(records, mayLeaveToParent));
      seen[fault < 0 ? 'good' : 'bad'] += 1;
      if (fault >= 0) return;
      const table = loader.finish();
      const pages = records.reduce((sum, each) => sum + each.pages, 0);
      expect(table.pagesStored + table.pagesInParent).toBe(pages);
      // Every page is found in the record that names it, and no other is.
      for (let page = 0; page < 64; page += 1) {
        const number = Number(at(page) >> 12n);
        const found = table.lastFrom(number);
        const has = found >= 0 && table.endPage(found) > number;
        const expected = records.findIndex(
          ({ address, pages: count }) =>
            address <= at(page) && at(page) < address + BigInt(count * PAGE),
        );
        expect(has ? found : -1).toBe(expected);
      }
    }),
    fuzzOf(20_000),
  );
  // Both are worth a look; a quarter of what is usual.
  const total = seen.good + seen.bad;
  expect(seen.good / total).toBeGreaterThan(0.1);
  expect(seen.bad / total).toBeGreaterThan(0.1);
});

test('a manifest of any bytes with the right checksum is refused, or is as it should be', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  const whole = await readFile(join(dir, 'manifest.msgpack'));
  const payload = whole.subarray(HEADER_BYTES);
  const change = fc.record({
    at: fc.nat(payload.length - 1),
    // What stands for a length or a type, and anything.
    byte: fc.oneof(
      fc.nat(255),
      fc.constantFrom(0x80, 0x90, 0xc1, 0xc6, 0xcf, 0xd3, 0xdd, 0xdf, 0xff),
    ),
    take: fc.constantFrom(0, 0, 0, 0, 1, 9, 200),
    give: fc.constantFrom(1, 1, 1, 1, 0, 9, 200),
  });
  const peakKib = process.resourceUsage().maxRSS;
  let refused = 0;
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
      let bytes = Buffer.from(payload);
      for (const { at: place, byte, take, give } of changes) {
        const [before, after] = [bytes.subarray(0, place), bytes.subarray(place + take + 1)];
        bytes = Buffer.concat([before, Buffer.alloc(give, byte), after]);
      }
      const file = Buffer.concat([whole.subarray(0, HEADER_BYTES), bytes]);
      file.writeUInt32BE(nativeCrc32c(bytes, 0), 16);
      file.writeUInt32BE(bytes.length, HEADER_BYTES - 4);
      try {
        decodeManifest(file, 'm', nativeCrc32c);
      } catch (error) {
        if (!SluiceError.isSluiceError(error)) throw error;
        expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file: 'm' });
        expect(error.offset).toBeGreaterThanOrEqual(HEADER_BYTES);
        expect(error.offset).toBeLessThanOrEqual(file.length);
        refused += 1;
      }
    }),
    fuzzOf(10_000),
  );
  expect(refused).toBeGreaterThan(0);
  expect(process.resourceUsage().maxRSS - peakKib).toBeLessThan(192 * 1024);
});
