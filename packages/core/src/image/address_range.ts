/** Ranges of addresses. */

/** Whole pages, `end` exclusive. */
export interface AddressRange {
  start: bigint;
  end: bigint;
}

/** Start and end by turns, as the addon takes them. */
export function flatRanges(ranges: readonly AddressRange[]): BigUint64Array {
  return BigUint64Array.from(ranges.flatMap(({ start, end }) => [start, end]));
}

/** What `flatRanges` made flat. */
export function rangesOf(flat: BigUint64Array): AddressRange[] {
  const ranges: AddressRange[] = [];
  for (let i = 0; i + 1 < flat.length; i += 2) {
    ranges.push({ start: flat[i] ?? 0n, end: flat[i + 1] ?? 0n });
  }
  return ranges;
}
