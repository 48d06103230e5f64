import { PAGE_BYTES, PAGE_SHIFT } from './layout.js';
import type { ManifestVma } from './manifest.js';

/** Number of the page that holds an address; below 2^52, so it is exact as a number. */
export function pageOf(address: bigint): number {
  return Number(address >> PAGE_SHIFT);
}

/** Address of a page's first byte. */
export function addressOf(page: number): bigint {
  return BigInt(page) << PAGE_SHIFT;
}

/** Pages that hold this many bytes. */
export function pagesFor(bytes: bigint): number {
  return pageOf(bytes + BigInt(PAGE_BYTES - 1));
}

/** Ascending ranges of pages, for binary search. */
export class PageRanges {
  readonly starts: Float64Array;
  /** First page after each range. */
  readonly ends: Float64Array;

  constructor(ranges: readonly { start: bigint; end: bigint }[]) {
    this.starts = Float64Array.from(ranges, ({ start }) => pageOf(start));
    this.ends = Float64Array.from(ranges, ({ end }) => pageOf(end));
  }

  get length(): number {
    return this.starts.length;
  }

  /** Index of the last range that starts at `page` or below; -1 if there is none. */
  lastFrom(page: number): number {
    return lastAtMost(this.starts.length, (i) => this.starts[i] ?? 0, page);
  }
}

/** Index of the last of `length` ascending values that is at most `limit`; -1 if there is none. */
export function lastAtMost(length: number, at: (i: number) => number, limit: number): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (at(middle) <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The mappings of a process by page. */
export class Mappings {
  readonly vmas: readonly ManifestVma[];
  readonly ranges: PageRanges;

  constructor({ vmas }: { readonly vmas: readonly ManifestVma[] }) {
    this.vmas = vmas;
    this.ranges = new PageRanges(vmas);
  }
}
