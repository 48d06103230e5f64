import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  costOf,
  PAGE_COST,
  partition,
  RUN_COST,
  type WorkItems,
} from '../../../packages/core/dist/schedule/partition.js';

const PAGE = 4096n;

interface Item {
  /** Unmapped pages before the item. */
  gap: number;
  /** Pages from start to end. */
  span: number;
  /** Existing pages, at most `span`. */
  pages: number;
  runs: number;
}

function toItems(list: readonly Item[]): WorkItems {
  const items = {
    starts: new BigUint64Array(list.length),
    ends: new BigUint64Array(list.length),
    pages: Float64Array.from(list, ({ pages }) => pages),
    runs: Float64Array.from(list, ({ runs }) => runs),
  };
  let page = 16n;
  list.forEach(({ gap, span }, i) => {
    page += BigInt(gap);
    items.starts[i] = page * PAGE;
    page += BigInt(span);
    items.ends[i] = page * PAGE;
  });
  return items;
}

/** Page by page: what each lane gets. Slow and obvious. */
function costPerLane(items: WorkItems, cuts: BigUint64Array): number[] {
  const perLane = new Array<number>(cuts.length + 1).fill(0);
  for (let i = 0; i < items.starts.length; i++) {
    const start = items.starts[i] ?? 0n;
    const end = items.ends[i] ?? 0n;
    const perPage = costOf(items, i) / Number((end - start) / PAGE);
    for (let address = start; address < end; address += PAGE) {
      const lane = cuts.findIndex((cut) => address < cut);
      const owner = lane === -1 ? cuts.length : lane;
      perLane[owner] = (perLane[owner] ?? 0) + perPage;
    }
  }
  return perLane;
}

function dearestPage(items: WorkItems): number {
  let dearest = 0;
  for (let i = 0; i < items.starts.length; i++) {
    const span = Number(((items.ends[i] ?? 0n) - (items.starts[i] ?? 0n)) / PAGE);
    dearest = Math.max(dearest, costOf(items, i) / span);
  }
  return dearest;
}

function expectEven(items: WorkItems, lanes: number): void {
  const cuts = partition(items, lanes);
  const perLane = costPerLane(items, cuts);
  const even = perLane.reduce((sum, cost) => sum + cost, 0) / lanes;
  const allowed = dearestPage(items) + 1e-6 * even;
  for (const cost of perLane) expect(Math.abs(cost - even)).toBeLessThanOrEqual(allowed);
}

const item = fc
  .record({
    gap: fc.oneof(fc.constant(0), fc.nat(50)),
    span: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 400 })),
    filled: fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true })),
    broken: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ gap, span, filled, broken }): Item => {
    const pages = Math.round(span * filled);
    return { gap, span, pages, runs: pages === 0 ? 0 : Math.max(1, Math.round(pages * broken)) };
  });
const itemList = fc.array(item, { maxLength: 60 });
const laneCount = fc.integer({ min: 1, max: 64 });

describe('partition', () => {
  it('gives every lane the same cost, to one page', () => {
    fc.assert(
      fc.property(itemList, laneCount, (list, lanes) => expectEven(toItems(list), lanes)),
      { numRuns: 1000 },
    );
  });

  it('cuts at ascending page boundaries inside the surveyed range', () => {
    fc.assert(
      fc.property(itemList, laneCount, (list, lanes) => {
        const items = toItems(list);
        const cuts = partition(items, lanes);
        expect(cuts).toHaveLength(lanes - 1);
        let previous = 0n;
        for (const cut of cuts) {
          expect(cut % PAGE).toBe(0n);
          expect(cut).toBeGreaterThanOrEqual(previous);
          expect(cut).toBeLessThanOrEqual(items.ends.at(-1) ?? 0n);
          previous = cut;
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('spreads one giant and a thousand small mappings within two per cent', () => {
    const small = Array.from(
      { length: 1000 },
      (_, i): Item => ({ gap: 1 + (i % 3), span: 1 + (i % 4), pages: 1 + (i % 4), runs: 1 }),
    );
    const giant: Item = { gap: 100, span: 65_536, pages: 65_536, runs: 1 };
    for (const list of [
      [giant, ...small],
      [...small, giant],
    ]) {
      for (const lanes of [2, 3, 4, 8]) {
        const items = toItems(list);
        const perLane = costPerLane(items, partition(items, lanes));
        const even = perLane.reduce((sum, cost) => sum + cost, 0) / lanes;
        for (const cost of perLane) expect(Math.abs(cost / even - 1)).toBeLessThan(0.02);
      }
    }
  });

  it('follows existing pages, not the size of a reservation', () => {
    const terabyte = 2 ** 28;
    const items = toItems([
      { gap: 0, span: terabyte, pages: 1, runs: 1 },
      { gap: 0, span: 1000, pages: 1000, runs: 1 },
    ]);
    const [cut = 0n] = partition(items, 2);
    const second = items.starts[1] ?? 0n;
    expect(Number((cut - second) / PAGE)).toBeCloseTo(500, -1);
  });

  it('leaves lanes without work when there are fewer pages than lanes', () => {
    const items = toItems([{ gap: 0, span: 2, pages: 2, runs: 1 }]);
    const perLane = costPerLane(items, partition(items, 8));
    expect(perLane.filter((cost) => cost > 0)).toHaveLength(2);
  });

  it('gives all to the last lane when there is nothing, and cuts nothing for one lane', () => {
    const empty = toItems([]);
    expect([...partition(empty, 4)]).toEqual([0n, 0n, 0n]);
    expect(partition(toItems([{ gap: 0, span: 9, pages: 9, runs: 1 }]), 1)).toHaveLength(0);
  });

  it('reaches the end of a 57-bit address space without loss', () => {
    const start = (1n << 56n) - 1000n * PAGE;
    const items: WorkItems = {
      starts: BigUint64Array.of(start),
      ends: BigUint64Array.of(1n << 56n),
      pages: Float64Array.of(1000),
      runs: Float64Array.of(1),
    };
    expect([...partition(items, 2)]).toEqual([start + 500n * PAGE]);
  });

  it('counts runs as well as pages', () => {
    const items = toItems([
      { gap: 0, span: 100, pages: 100, runs: 100 },
      { gap: 0, span: 300, pages: 300, runs: 0 },
    ]);
    expect(costOf(items, 0)).toBe(100 * PAGE_COST + 100 * RUN_COST);
    const [cut] = partition(items, 2);
    expect(cut).toBe(items.ends[0]);
  });
});
