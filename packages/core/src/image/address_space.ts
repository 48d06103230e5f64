/** Where the bytes of an address come from, by the rules in docs/image-format.md. */
import type { NativeFile } from '@sluice/native';
import { SluiceError } from '../errors.js';
import { hex } from './faults.js';
import { PAGE_BYTES } from './layout.js';
import type { ManifestProcess, ManifestVma } from './manifest.js';
import { addressOf, Mappings, PageRanges, pageOf, pagesFor } from './mappings.js';
import type { PageRun, PageTable } from './page_table.js';
import type { Found, StoredPages } from './stored_pages.js';

/** Adjacent bytes from one source. */
export type Segment =
  | { from: 'zeros'; bytes: number }
  | { from: 'shard'; bytes: number; image: number; shard: number; offset: number }
  /** Zeros after the end of the file. */
  | { from: 'file'; bytes: number; file: NativeFile; offset: number };

type ShardSource = { from: 'shard'; image: number; shard: number; offset: number };

type Source =
  | { from: 'zeros' }
  | ShardSource
  | { from: 'file'; file: NativeFile; offset: number }
  | { from: 'nowhere'; reason: string };

/** Adjacent pages, and what is known about their bytes. */
export interface Stretch {
  start: bigint;
  end: bigint;
  source: Source;
}

/** Pages from one on, up to `stop`, and where their bytes are. */
interface Extent<S extends Source = Source> {
  source: S;
  stop: number;
}

/** The memory of one process in an image and the chain below it. */
export class AddressSpace {
  readonly process: ManifestProcess;
  readonly #stored: StoredPages;
  readonly #isComplete: boolean;
  readonly #mappings: Mappings;
  readonly #leftOut: PageRanges;

  /**
   * @param process In the newest image.
   * @param isComplete Whether its page table names all pages that are stored anywhere; if not, those
   * without a record may be in the chain below.
   */
  constructor(process: ManifestProcess, stored: StoredPages, isComplete: boolean) {
    this.process = process;
    this.#stored = stored;
    this.#isComplete = isComplete;
    this.#mappings = new Mappings(process);
    this.#leftOut = new PageRanges(process.leftOut);
  }

  /** What is stored of this memory, and in which image, ascending by address. */
  *runs(): Generator<PageRun, void, undefined> {
    const { ranges } = this.#mappings;
    let page = 0;
    for (let i = 0; i < ranges.length; i += 1) {
      page = Math.max(page, ranges.starts[i] ?? 0);
      while (page < (ranges.ends[i] ?? 0)) {
        const found = this.#find(page, i);
        if (found.image >= 0) {
          const { source } = this.#inShard(page, found);
          const { image, shard, offset } = source;
          yield { address: addressOf(page), pages: found.stop - page, image, shard, offset };
        }
        page = found.stop;
      }
    }
  }

  /**
   * The sources of `bytes` bytes from `address` on, in order.
   *
   * @throws SluiceError `ERR_SLUICE_NOT_MAPPED`, `ERR_SLUICE_LEFT_OUT`, at the first segment that
   * cannot be had.
   */
  *segments(address: bigint, bytes: number): Generator<Segment, void, undefined> {
    let page = pageOf(address);
    let skip = Number(address % BigInt(PAGE_BYTES));
    for (let left = bytes; left > 0; ) {
      const { source, stop } = this.#extent(page);
      if (source.from === 'nowhere') throw this.#notHad(page, source.reason);
      // The product may be inexact only where it is far above `left`, which is exact.
      const part = Math.min(left, (stop - page) * PAGE_BYTES - skip);
      yield source.from === 'zeros'
        ? { from: 'zeros', bytes: part }
        : { ...source, bytes: part, offset: source.offset + skip };
      left -= part;
      page = stop;
      skip = 0;
    }
  }

  /**
   * Where pages are, ascending and without a gap; also of those that cannot be had.
   *
   * @param range Whole pages, all mapped.
   */
  *stretches(range: { start: bigint; end: bigint }): Generator<Stretch, void, undefined> {
    const end = pageOf(range.end);
    for (let page = pageOf(range.start); page < end; ) {
      const { source, stop } = this.#extent(page);
      yield { start: addressOf(page), end: addressOf(Math.min(stop, end)), source };
      page = stop;
    }
  }

  #extent(page: number): Extent {
    const { vmas, ranges } = this.#mappings;
    const at = ranges.lastFrom(page);
    const vma = vmas[at];
    const vmaEnd = ranges.ends[at] ?? 0;
    if (vma === undefined || vmaEnd <= page) throw this.#notMapped(page);
    const found = this.#find(page, at);
    return found.image < 0 ? this.#notStored(page, found.stop, vma) : this.#inShard(page, found);
  }

  /** Where a page of mapping `vma` is stored, if it is. */
  #find(page: number, vma: number): Found {
    const own = this.#stored.tables[0] as PageTable;
    const record = own.lastFrom(page);
    if (record >= 0 && own.endPage(record) > page) {
      // If it leaves its pages to the images below, opening has made sure that they are there.
      return this.#stored.find(0, page, own.endPage(record));
    }
    const vmaEnd = this.#mappings.ranges.ends[vma] ?? 0;
    const next = record + 1 < own.entries ? own.startPage(record + 1) : vmaEnd;
    const stop = Math.min(next, vmaEnd);
    const gone = this.#isComplete || this.#mappings.vmas[vma]?.kind === 'excluded';
    if (gone) return { image: -1, record: -1, stop };
    const leftOut = this.#leftOut.lastFrom(page);
    const leftOutEnd = this.#leftOut.ends[leftOut] ?? 0;
    if (leftOutEnd > page) return { image: -1, record: -1, stop: Math.min(stop, leftOutEnd) };
    return this.#stored.find(0, page, Math.min(stop, this.#leftOut.starts[leftOut + 1] ?? stop));
  }

  #inShard(page: number, { image, record, stop }: Found): Extent<ShardSource> {
    const table = this.#stored.tables[image] as PageTable;
    const skipped = (page - table.startPage(record)) * PAGE_BYTES;
    const offset = table.offset(record) + skipped;
    return { source: { from: 'shard', image, shard: table.shard(record), offset }, stop };
  }

  /** For pages without a record, all in `vma`. */
  #notStored(page: number, end: number, vma: ManifestVma): Extent {
    const ranges = this.#leftOut;
    const at = ranges.lastFrom(page);
    if ((ranges.ends[at] ?? 0) > page) {
      const reason = this.process.leftOut[at]?.reason ?? '';
      return nowhere(Math.min(end, ranges.ends[at] ?? end), reason);
    }
    const stop = Math.min(end, ranges.starts[at + 1] ?? end);
    switch (vma.kind) {
      case 'anonymous':
      case 'shared-memory':
        return { source: { from: 'zeros' }, stop };
      case 'private-file':
      case 'shared-file':
        return this.#inFile(page, stop, vma);
      case 'excluded':
        return nowhere(stop, vma.leftOut);
      case 'deleted-file':
        return this.#inDeletedFile(page, stop, vma);
      case 'vdso':
        return nowhere(stop, 'not stored');
    }
  }

  /** All data of the file was stored, so what was not is a hole. */
  #inDeletedFile(page: number, end: number, vma: ManifestVma): Extent {
    const { file } = vma;
    if (file === null) return nowhere(end, 'not stored');
    const left = pagesFor(file.bytes) - filePage(page, vma);
    if (left <= 0) return nowhere(end, BEYOND_END);
    return { source: { from: 'zeros' }, stop: Math.min(end, page + left) };
  }

  #inFile(page: number, end: number, vma: ManifestVma): Extent {
    const { file } = vma;
    if (file === null) return nowhere(end, 'the file behind it could not be identified');
    const first = filePage(page, vma);
    const pages = pagesFor(file.bytes);
    if (first >= pages) return nowhere(end, BEYOND_END);
    const offset = first * PAGE_BYTES;
    const stop = Math.min(end, page + pages - first);
    // Node takes file offsets as numbers.
    if (offset + (stop - page) * PAGE_BYTES > Number.MAX_SAFE_INTEGER) {
      return nowhere(stop, 'too far into the file behind it');
    }
    return { source: { from: 'file', file, offset }, stop };
  }

  #notMapped(page: number): SluiceError {
    const { pid } = this.process;
    const message = `Process ${pid} had nothing mapped at ${hex(addressOf(page))}`;
    return new SluiceError('ERR_SLUICE_NOT_MAPPED', message, { pid });
  }

  #notHad(page: number, reason: string): SluiceError {
    const { pid } = this.process;
    const message = `The image holds no bytes for ${hex(addressOf(page))} of process ${pid}: ${reason}`;
    return new SluiceError('ERR_SLUICE_LEFT_OUT', message, { pid });
  }
}

function nowhere(stop: number, reason: string): Extent {
  return { source: { from: 'nowhere', reason }, stop };
}

const BEYOND_END = 'beyond the end of the file';

function filePage(page: number, { start, offset }: ManifestVma): number {
  return pageOf(offset) + page - pageOf(start);
}
