/** Reads compared with a reader so simple that it cannot be wrong: a map from page to its bytes. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CapturedVma, LeftOutRange, NativeFile, VmaKind } from '@sluice/native';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  noteFile,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  type TestRecord,
  vmaOf,
  writeTestImage,
} from './support.js';

const BASE_PAGE = 0x7f_0000;
const FILE_BYTES = 5 * PAGE + 123;

/** Bytes of a page, or the code of the error that reading it gives. */
type Page = Uint8Array | string;

const KINDS: VmaKind[] = [
  'anonymous',
  'private-file',
  'shared-file',
  'shared-memory',
  'deleted-file',
  'vdso',
  'excluded',
];

interface Layout {
  vmas: CapturedVma[];
  leftOut: LeftOutRange[];
  records: TestRecord[];
  pages: Map<number, Page>;
}

const vmaArbitrary = fc.record({
  gap: fc.constantFrom(0, 0, 0, 1, 3),
  pages: fc.integer({ min: 1, max: 9 }),
  kind: fc.constantFrom(...KINDS, 'anonymous' as const, 'private-file' as const),
  filePage: fc.nat(7),
  hasFile: fc.integer({ min: 0, max: 5 }).map((n) => n > 0),
});
/** Per page: stored where it is, stored as an alias, left out, or not stored. */
const fates = fc.array(fc.constantFrom('stored', 'stored', 'alias', 'none', 'none', 'left-out'), {
  minLength: 120,
  maxLength: 120,
});

function layOut(
  vmas: readonly (typeof vmaArbitrary extends fc.Arbitrary<infer T> ? T : never)[],
  fate: readonly string[],
  shards: readonly Uint8Array[],
  file: NativeFile,
  fileBytes: Uint8Array,
): Layout {
  const layout: Layout = { vmas: [], leftOut: [], records: [], pages: new Map() };
  const used = shards.map(() => 0);
  let page = BASE_PAGE;
  for (const { gap, pages, kind, filePage, hasFile } of vmas) {
    page += gap;
    const more = {
      kind,
      offset: BigInt(filePage * PAGE),
      leftOut: kind === 'excluded' ? 'no' : '',
    };
    const mapsFile = kind.endsWith('-file') && hasFile;
    layout.vmas.push(vmaOf(BigInt(page * PAGE), pages, { ...more, ...(mapsFile && { file }) }));
    for (let i = 0; i < pages; i += 1, page += 1) {
      const address = BigInt(page * PAGE);
      const how = kind === 'excluded' ? 'none' : fate[page - BASE_PAGE];
      const shard = page % shards.length;
      const last = layout.records.at(-1);
      if (how === 'stored') {
        const offset = (used[shard] ?? 0) * PAGE;
        used[shard] = (used[shard] ?? 0) + 1;
        add(layout.records, { address, pages: 1, shard, offset });
        layout.pages.set(page, pageAt(shards[shard], offset));
      } else if (how === 'alias' && last !== undefined) {
        add(layout.records, { address, pages: 1, shard: last.shard, offset: last.offset });
        layout.pages.set(page, pageAt(shards[last.shard], last.offset));
      } else if (how === 'left-out') {
        layout.leftOut.push({ start: address, end: address + BigInt(PAGE), reason: 'unreadable' });
        layout.pages.set(page, 'ERR_SLUICE_LEFT_OUT');
      } else {
        const offset = (filePage + i) * PAGE;
        const inFile = mapsFile && offset < FILE_BYTES;
        const hole = kind === 'deleted-file' && inFile;
        const zeros = kind === 'anonymous' || kind === 'shared-memory' || hole;
        const bytes = zeros ? new Uint8Array(PAGE) : inFile && pageAt(fileBytes, offset);
        layout.pages.set(page, bytes || 'ERR_SLUICE_LEFT_OUT');
      }
    }
  }
  return layout;
}

/** Adds a record of one page to the last one if it continues it in memory and in the shard. */
function add(records: TestRecord[], record: TestRecord): void {
  const last = records.at(-1);
  const lastBytes = (last?.pages ?? 0) * PAGE;
  const continues =
    last !== undefined &&
    last.shard === record.shard &&
    last.address + BigInt(lastBytes) === record.address &&
    last.offset + lastBytes === record.offset;
  if (continues) last.pages += 1;
  else records.push(record);
}

function pageAt(bytes: Uint8Array | undefined, offset: number): Uint8Array {
  const page = new Uint8Array(PAGE);
  page.set(bytes?.subarray(offset, offset + PAGE) ?? []);
  return page;
}

function naiveRead(pages: Map<number, Page>, address: number, bytes: number): Page {
  const result = new Uint8Array(bytes);
  for (let i = 0; i < bytes; ) {
    const page = pages.get(Math.floor((address + i) / PAGE)) ?? 'ERR_SLUICE_NOT_MAPPED';
    if (typeof page === 'string') return page;
    const part = page.subarray((address + i) % PAGE).subarray(0, bytes - i);
    result.set(part, i);
    i += part.length;
  }
  return result;
}

test('read() agrees with the naive reader on thousands of ranges', async () => {
  const root = await mkdtemp(join(tmpdir(), 'sluice-oracle-'));
  try {
    const fileBytes = pattern(FILE_BYTES, 99);
    await writeFile(join(root, 'file'), fileBytes);
    const file = await noteFile(join(root, 'file'));
    const shards = [0, 1, 2].map((n) => pattern(64 * PAGE, n));
    let images = 0;
    const seen = { bytes: 0, codes: new Set<string>() };
    const ranges = fc.array(fc.tuple(fc.nat(130 * PAGE), fc.nat(9 * PAGE)), {
      minLength: 100,
      maxLength: 100,
    });
    const layouts = fc.array(vmaArbitrary, { minLength: 1, maxLength: 12 });
    const checksum = fc.constantFrom('crc32c' as const, 'none' as const);
    await fc.assert(
      fc.asyncProperty(layouts, fates, ranges, checksum, async (vmas, fate, reads, checksum) => {
        const layout = layOut(vmas, fate, shards, file, fileBytes);
        images += 1;
        const dir = await mkdtemp(join(root, `${images}-`));
        const pageTable = pageTableOf(layout.records);
        const processes = [processOf({ vmas: layout.vmas, leftOut: layout.leftOut, pageTable })];
        await writeTestImage({ dir, shards, processes, more: { checksum } });
        const image = await open(dir);
        for (const [from, bytes] of reads) {
          const address = (BASE_PAGE - 2) * PAGE + from;
          const expected = naiveRead(layout.pages, address, bytes);
          const got = await image
            .read(77, BigInt(address), bytes)
            .catch((error: { code: string }) => error.code);
          if (typeof expected === 'string') seen.codes.add(expected);
          else seen.bytes += bytes;
          const same =
            typeof expected === 'string' || typeof got === 'string'
              ? expected === got
              : Buffer.from(expected).equals(got);
          if (!same) expect(got).toEqual(expected);
        }
        const stored = layout.records.map((record) => ({ ...record, image: 0 }));
        expect([...image.runs(77)]).toEqual(stored);
        await image.close();
        await rm(dir, { recursive: true });
      }),
      { numRuns: 100 },
    );
    // What was compared was worth it; less than half of what is usual, for the draws differ.
    expect(seen.codes).toEqual(new Set(['ERR_SLUICE_NOT_MAPPED', 'ERR_SLUICE_LEFT_OUT']));
    expect(seen.bytes).toBeGreaterThan(512 * 1024);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
});
