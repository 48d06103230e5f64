/** Ranges of addresses, and the bytes of an image in them. */
import type { AddressRange } from '../image/address_range.js';
import type { Image, PageRun } from '../image/index.js';
import { PAGE_BYTES } from '../image/layout.js';

/** Adjacent bytes of several ranges. */
export interface Batch {
  ranges: AddressRange[];
  /** Of all ranges, one after the other. */
  bytes: Uint8Array;
}

const BATCH_BYTES = 1024 * 1024;

/** The addresses of runs, which are ascending; those that touch as one. */
export function storedRanges(runs: Iterable<PageRun>): AddressRange[] {
  const ranges: AddressRange[] = [];
  for (const { address, pages } of runs) {
    const end = address + BigInt(pages) * BigInt(PAGE_BYTES);
    const last = ranges.at(-1);
    if (last?.end === address) last.end = end;
    else ranges.push({ start: address, end });
  }
  return ranges;
}

/** What two ascending lists have in common. */
export function overlaps(a: readonly AddressRange[], b: readonly AddressRange[]): AddressRange[] {
  const common: AddressRange[] = [];
  for (let i = 0, j = 0; ; ) {
    const left = a[i];
    const right = b[j];
    if (left === undefined || right === undefined) return common;
    const later = left.start > right.start ? left : right;
    const sooner = left.end < right.end ? left : right;
    if (later.start < sooner.end) common.push({ start: later.start, end: sooner.end });
    if (sooner === left) i++;
    else j++;
  }
}

/** The bytes of ascending ranges, in batches of about 1 MiB however small the ranges are. */
export async function* readRanges(
  image: Image,
  pid: number,
  ranges: readonly AddressRange[],
): AsyncGenerator<Batch, void, undefined> {
  let held: AddressRange[] = [];
  let parts: Uint8Array[] = [];
  let bytes = 0;
  const take = (): Batch => {
    const [only] = parts;
    const joined = parts.length === 1 && only !== undefined ? only : Buffer.concat(parts, bytes);
    const batch = { ranges: held, bytes: joined };
    [held, parts, bytes] = [[], [], 0];
    return batch;
  };
  for (const { start, end } of ranges) {
    let at = start;
    for await (const part of image.chunks(pid, start, Number(end - start))) {
      const next = at + BigInt(part.length);
      held.push({ start: at, end: next });
      parts.push(part);
      bytes += part.length;
      at = next;
      if (bytes >= BATCH_BYTES) yield take();
    }
  }
  if (bytes > 0) yield take();
}
