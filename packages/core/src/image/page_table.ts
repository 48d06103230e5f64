/**
 * The page table of a process: which of its pages are stored, and where. It stays as it is on the
 * disk, in chunks, because it can have millions of records:
 *
 *     0          8        12       16         24
 *     | address  | pages  | shard  | offset   |    little-endian, ascending by address
 */
import { PAGE_BYTES } from './layout.js';
import { addressOf, lastAtMost, type Mappings } from './mappings.js';

export const RECORD_BYTES = 24;
// A power of two of records, so that a record's chunk is a shift and a mask away.
const CHUNK_SHIFT = 16;
const CHUNK_RECORDS = 1 << CHUNK_SHIFT;
/** All chunks but the last have this size. */
export const CHUNK_BYTES = CHUNK_RECORDS * RECORD_BYTES;

/** Adjacent pages that are stored in one piece. */
export interface PageRun {
  /** Of the first page. */
  address: bigint;
  pages: number;
  /** Index into the manifest's `shards`. */
  shard: number;
  /** Bytes into that shard. */
  offset: number;
}

/** A record that must not be. */
export class PageTableFault extends Error {
  /** Bytes into the page table. */
  readonly offset: number;

  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

/** Checked records, by index and by page. */
export class PageTable {
  readonly entries: number;
  /** Pages that the records cover. */
  readonly pages: number;
  readonly #chunks: readonly DataView[];

  /** Only for `PageTableLoader`. */
  constructor(chunks: readonly DataView[], entries: number, pages: number) {
    this.#chunks = chunks;
    this.entries = entries;
    this.pages = pages;
  }

  /** Index of the last record that starts at `page` or below; -1 if there is none. */
  lastFrom(page: number): number {
    return lastAtMost(this.entries, (i) => this.startPage(i), page);
  }

  /** First page of record `i`. */
  startPage(i: number): number {
    return readPage(this.#chunk(i), at(i));
  }

  /** First page after record `i`. */
  endPage(i: number): number {
    return this.startPage(i) + this.#chunk(i).getUint32(at(i) + 8, true);
  }

  run(i: number): PageRun {
    const chunk = this.#chunk(i);
    return {
      address: addressOf(readPage(chunk, at(i))),
      pages: chunk.getUint32(at(i) + 8, true),
      shard: chunk.getUint32(at(i) + 12, true),
      offset: readPage(chunk, at(i) + 16) * PAGE_BYTES,
    };
  }

  /** All records, ascending by address. */
  *runs(): Generator<PageRun, void, undefined> {
    for (let i = 0; i < this.entries; i += 1) yield this.run(i);
  }

  #chunk(i: number): DataView {
    const chunk = this.#chunks[Math.floor(i / CHUNK_RECORDS)];
    if (chunk === undefined) throw new RangeError(`No record ${i} of ${this.entries}`);
    return chunk;
  }
}

/** Takes the records of a page table chunk by chunk and checks each before it keeps it. */
export class PageTableLoader {
  readonly #mappings: Mappings;
  readonly #shardPages: Float64Array;
  readonly #chunks: DataView[] = [];
  #entries = 0;
  #pages = 0;
  #lastEnd = 0;
  /** The VMA that the next record can start in, at the earliest. */
  #vma = 0;

  /** @param shards Those of the manifest. */
  constructor(mappings: Mappings, shards: readonly { bytes: bigint }[]) {
    this.#mappings = mappings;
    this.#shardPages = Float64Array.from(shards, ({ bytes }) => Number(bytes) / PAGE_BYTES);
  }

  /**
   * @param chunk `CHUNK_BYTES` bytes, or fewer if it is the last one; whole records. Kept, not copied.
   * @throws PageTableFault
   */
  add(chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (let offset = 0; offset < chunk.byteLength; offset += RECORD_BYTES) {
      this.#check(view, offset);
      this.#entries += 1;
    }
    this.#chunks.push(view);
  }

  finish(): PageTable {
    return new PageTable(this.#chunks, this.#entries, this.#pages);
  }

  #check(view: DataView, offset: number): void {
    const start = readPage(view, offset);
    const pages = view.getUint32(offset + 8, true);
    const shard = view.getUint32(offset + 12, true);
    if (!isAligned(view, offset)) this.#fault('an address that is not of a page');
    if (pages === 0) this.#fault('a record of no pages');
    if (start < this.#lastEnd) this.#fault('a record that overlaps the one before or is below it');
    const shardPages = this.#shardPages[shard];
    if (shardPages === undefined) this.#fault(`shard ${shard}, which is not there`);
    if (!isAligned(view, offset + 16)) this.#fault('an offset in the shard that is not of a page');
    if (readPage(view, offset + 16) + pages > shardPages) this.#fault('pages beyond their shard');
    this.#checkMapped(start, start + pages);
    this.#lastEnd = start + pages;
    this.#pages += pages;
  }

  #checkMapped(start: number, end: number): void {
    const { ranges, vmas } = this.#mappings;
    const endOf = (vma: number): number => ranges.ends[vma] ?? Number.POSITIVE_INFINITY;
    while (endOf(this.#vma) <= start) this.#vma += 1;
    for (let page = start; ; this.#vma += 1) {
      if (!((ranges.starts[this.#vma] ?? Number.POSITIVE_INFINITY) <= page)) {
        this.#fault('pages that were not mapped');
      }
      if (vmas[this.#vma]?.kind === 'excluded') this.#fault('pages of a mapping that is left out');
      page = endOf(this.#vma);
      if (page >= end) return;
    }
  }

  #fault(what: string): never {
    throw new PageTableFault(this.#entries * RECORD_BYTES, what);
  }
}

function at(i: number): number {
  return (i % CHUNK_RECORDS) * RECORD_BYTES;
}

/** The u64 at `offset` in pages, without the slow detour over a bigint. */
function readPage(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 2 ** 20 + (view.getUint32(offset, true) >>> 12);
}

function isAligned(view: DataView, offset: number): boolean {
  return (view.getUint32(offset, true) & (PAGE_BYTES - 1)) === 0;
}
