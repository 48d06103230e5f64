/** Where the bytes of an address come from, by the rules in docs/image-format.md. */
import type { NativeFile } from '@sluice/native';
import { SluiceError } from '../errors.js';
import { hex } from './faults.js';
import { PAGE_BYTES } from './layout.js';
import type { ManifestProcess, ManifestVma } from './manifest.js';
import { addressOf, type Mappings, PageRanges, pageOf, pagesFor } from './mappings.js';
import type { PageTable } from './page_table.js';

/** Adjacent bytes from one source. */
export type Segment =
  | { from: 'zeros'; bytes: number }
  | { from: 'shard'; bytes: number; shard: number; offset: number }
  /** Zeros after the end of the file. */
  | { from: 'file'; bytes: number; file: NativeFile; offset: number };

type Source =
  | { from: 'zeros' }
  | { from: 'shard'; shard: number; offset: number }
  | { from: 'file'; file: NativeFile; offset: number };

/** Pages from `page` on, up to `stop`, and where their bytes are. */
interface Extent {
  source: Source;
  stop: number;
}

/** The memory of one process in an image. */
export class AddressSpace {
  readonly process: ManifestProcess;
  readonly pageTable: PageTable;
  readonly #mappings: Mappings;
  readonly #leftOut: PageRanges;

  constructor(process: ManifestProcess, mappings: Mappings, pageTable: PageTable) {
    this.process = process;
    this.pageTable = pageTable;
    this.#mappings = mappings;
    this.#leftOut = new PageRanges(process.leftOut);
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

  #extent(page: number): Extent {
    const { vmas, ranges } = this.#mappings;
    const at = ranges.lastFrom(page);
    const vma = vmas[at];
    const vmaEnd = ranges.ends[at] ?? 0;
    if (vma === undefined || vmaEnd <= page) throw this.#notMapped(page);
    const record = this.pageTable.lastFrom(page);
    if (record >= 0 && this.pageTable.endPage(record) > page) {
      const { shard, offset } = this.pageTable.run(record);
      const skipped = (page - this.pageTable.startPage(record)) * PAGE_BYTES;
      const source: Source = { from: 'shard', shard, offset: offset + skipped };
      return { source, stop: this.pageTable.endPage(record) };
    }
    const next = record + 1;
    const stop = next < this.pageTable.entries ? this.pageTable.startPage(next) : vmaEnd;
    return this.#notStored(page, Math.min(stop, vmaEnd), vma);
  }

  /** For pages without a record, all in `vma`. */
  #notStored(page: number, end: number, vma: ManifestVma): Extent {
    const ranges = this.#leftOut;
    const at = ranges.lastFrom(page);
    if ((ranges.ends[at] ?? 0) > page) {
      throw this.#notHad(page, this.process.leftOut[at]?.reason ?? '');
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
        throw this.#notHad(page, vma.leftOut);
      case 'deleted-file':
        return this.#inDeletedFile(page, stop, vma);
      case 'vdso':
        throw this.#notHad(page, 'not stored');
    }
  }

  /** All data of the file was stored, so what was not is a hole. */
  #inDeletedFile(page: number, end: number, vma: ManifestVma): Extent {
    const { file } = vma;
    if (file === null) throw this.#notHad(page, 'not stored');
    const left = pagesFor(file.bytes) - filePage(page, vma);
    if (left <= 0) throw this.#notHad(page, BEYOND_END);
    return { source: { from: 'zeros' }, stop: Math.min(end, page + left) };
  }

  #inFile(page: number, end: number, vma: ManifestVma): Extent {
    const { file } = vma;
    if (file === null) throw this.#notHad(page, 'the file behind it could not be identified');
    const first = filePage(page, vma);
    const pages = pagesFor(file.bytes);
    if (first >= pages) throw this.#notHad(page, BEYOND_END);
    const offset = first * PAGE_BYTES;
    const stop = Math.min(end, page + pages - first);
    // Node takes file offsets as numbers.
    if (offset + (stop - page) * PAGE_BYTES > Number.MAX_SAFE_INTEGER) {
      throw this.#notHad(page, 'too far into the file behind it');
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

const BEYOND_END = 'beyond the end of the file';

function filePage(page: number, { start, offset }: ManifestVma): number {
  return pageOf(offset) + page - pageOf(start);
}
