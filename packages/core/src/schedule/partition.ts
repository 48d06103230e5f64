/**
 * Spreads the work of a capture over the lanes. Lanes own address ranges, not lists of pages: the
 * ranges cover the whole address space, so what appears after the survey belongs to some lane too.
 *
 * ```
 *   items      ██▌  █  ████████████████████████  ▌▌▌▌▌▌▌
 *   lanes    0000000000000000|111111111111|2222222222222
 *                            cut 0        cut 1
 * ```
 */

/** Cost of one existing page. The unit of cost. */
export const PAGE_COST = 1;

/** Cost of a run of adjacent pages on top of its pages: an iovec and a record of the page table. */
export const RUN_COST = 2;

/** What the partition needs of a survey: item i is [starts[i], ends[i]), ascending, page-aligned. */
export interface WorkItems {
  readonly starts: BigUint64Array;
  readonly ends: BigUint64Array;
  /** Existing pages per item. */
  readonly pages: Float64Array;
  /** Runs of adjacent existing pages per item. */
  readonly runs: Float64Array;
}

/** The cost of item `index`. */
export function costOf(items: WorkItems, index: number): number {
  return (items.pages[index] ?? 0) * PAGE_COST + (items.runs[index] ?? 0) * RUN_COST;
}

/**
 * Where to cut the address space so that each lane has the same cost: lane i takes
 * [cuts[i-1], cuts[i]), the first from 0 and the last to the end. Cuts are page-aligned and ascend;
 * equal cuts leave a lane without work. An item that is cut is taken to be evenly filled, so a lane is
 * off by at most the cost of one page then.
 *
 * @returns `lanes` - 1 addresses.
 */
export function partition(
  items: WorkItems,
  lanes: number,
  pageSizeBytes: number = 4096,
): BigUint64Array {
  const cuts = new BigUint64Array(lanes - 1);
  const count = items.starts.length;
  let total = 0;
  for (let i = 0; i < count; i++) total += costOf(items, i);
  if (total === 0) return cuts;

  let item = 0;
  let costBefore = 0;
  for (let cut = 0; cut < cuts.length; cut++) {
    const wanted = (total * (cut + 1)) / lanes;
    // Rounding may leave the last target beyond the sum: then the last item ends the lane.
    while (item < count - 1 && costBefore + costOf(items, item) < wanted) {
      costBefore += costOf(items, item);
      item++;
    }
    const cost = costOf(items, item);
    const share = cost === 0 ? 0 : Math.min(1, (wanted - costBefore) / cost);
    cuts[cut] = addressAt(items, item, share, pageSizeBytes);
  }
  return cuts;
}

/** The page boundary nearest to `share` (0 to 1) of the way through an item. */
function addressAt(items: WorkItems, item: number, share: number, pageSizeBytes: number): bigint {
  const start = items.starts[item] ?? 0n;
  const spanPages = Number((items.ends[item] ?? start) - start) / pageSizeBytes;
  return start + BigInt(Math.round(spanPages * share)) * BigInt(pageSizeBytes);
}
