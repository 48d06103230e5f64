/**
 * The page table of a process: which of its pages are stored, and where. It stays as it is on the
 * disk, in chunks, because it can have millions of records:
 *
 *     0          8        12       16         24
 *     | address  | pages  | shard  | offset   |    little-endian, ascending by address
 *
 * Shard 0xffffffff with offset 0 stands for pages that are in the chain of images below.
 */
import { IN_PARENT, PAGE_BYTES } from './layout.js';
import { lastAtMost, type Mappings } from './mappings.js';

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
  /** Index into `Image.chain`: 0 is the image itself. */
  image: number;
  /** Index into the `shards` of that image's manifest. */
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
  /** Pages that the records place in shards. */
  readonly pagesStored: number;
  /** Pages that the records leave to the chain below. */
  readonly pagesInParent: number;
  readonly #chunks: readonly DataView[];
  /** What `lastFrom` found last. */
  #near = -1;

  /** Only for `PageTableLoader`. */
  constructor(
    chunks: readonly DataView[],
    entries: number,
    pagesStored: number,
    pagesInParent: number,
  ) {
    this.#chunks = chunks;
    this.entries = entries;
    this.pagesStored = pagesStored;
    this.pagesInParent = pagesInParent;
  }

  /** Index of the last record that starts at `page` or below; -1 if there is none. */
  lastFrom(page: number): number {
    // Who walks through a table asks for the same record again, or for the next one.
    for (const i of [this.#near, this.#near + 1]) {
      const after = i + 1 < this.entries ? this.startPage(i + 1) : Number.POSITIVE_INFINITY;
      if ((i < 0 || this.startPage(i) <= page) && page < after) {
        this.#near = i;
        return i;
      }
      if (i + 1 >= this.entries) break;
    }
    this.#near = lastAtMost(this.entries, (i) => this.startPage(i), page);
    return this.#near;
  }

  /** First page of record `i`. */
  startPage(i: number): number {
    return readPage(this.#chunk(i), at(i));
  }

  /** First page after record `i`. */
  endPage(i: number): number {
    return this.startPage(i) + this.#chunk(i).getUint32(at(i) + 8, true);
  }

  /** Where the bytes of record `i` are; `IN_PARENT` if in the chain below. */
  shard(i: number): number {
    return this.#chunk(i).getUint32(at(i) + 12, true);
  }

  /** Bytes into that shard. */
  offset(i: number): number {
    return readPage(this.#chunk(i), at(i) + 16) * PAGE_BYTES;
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
  readonly #mayLeaveToParent: boolean;
  readonly #chunks: DataView[] = [];
  #entries = 0;
  #pagesStored = 0;
  #pagesInParent = 0;
  #lastEnd = 0;
  /** The VMA that the next record can start in, at the earliest. */
  #vma = 0;

  /**
   * @param shards Those of the manifest.
   * @param mayLeaveToParent Whether records may leave pages to the chain below.
   */
  constructor(mappings: Mappings, shards: readonly { bytes: bigint }[], mayLeaveToParent: boolean) {
    this.#mappings = mappings;
    this.#mayLeaveToParent = mayLeaveToParent;
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
    return new PageTable(this.#chunks, this.#entries, this.#pagesStored, this.#pagesInParent);
  }

  #check(view: DataView, offset: number): void {
    const start = readPage(view, offset);
    const pages = view.getUint32(offset + 8, true);
    const shard = view.getUint32(offset + 12, true);
    if (!isAligned(view, offset)) this.#fault('an address that is not of a page');
    if (pages === 0) this.#fault('a record of no pages');
    if (start < this.#lastEnd) this.#fault('a record that overlaps the one before or is below it');
    if (shard === IN_PARENT) this.#checkInParent(view, offset + 16);
    else this.#checkInShard(view, offset + 16, pages, shard);
    this.#checkMapped(start, start + pages);
    this.#lastEnd = start + pages;
    if (shard === IN_PARENT) this.#pagesInParent += pages;
    else this.#pagesStored += pages;
  }

  #checkInParent(view: DataView, offset: number): void {
    if (!this.#mayLeaveToParent) this.#fault('pages in a parent, which this image cannot have');
    if (view.getBigUint64(offset, true) !== 0n) this.#fault('pages in a parent with an offset');
  }

  #checkInShard(view: DataView, offset: number, pages: number, shard: number): void {
    const shardPages = this.#shardPages[shard];
    if (shardPages === undefined) this.#fault(`shard ${shard}, which is not there`);
    if (!isAligned(view, offset)) this.#fault('an offset in the shard that is not of a page');
    if (readPage(view, offset) + pages > shardPages) this.#fault('pages beyond their shard');
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
