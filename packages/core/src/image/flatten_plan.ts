/**
 * Where the pages of a chain go in a flat image. All bytes that reading takes from shards are laid out
 * in one row, each once however many records point to them, and the row is cut into equal shards:
 *
 *     image 0   shard 0   ..##....####..         pages that are read (#)
 *     image 1   shard 0   ###.#####....
 *                          │
 *     row                  ▼  ############## ... in the order of images, shards and offsets
 *     flat      shard 0       #######            page n of the row is page n % q of shard n / q
 *               shard 1              #######
 */
import { PAGE_BYTES } from './layout.js';
import { lastAtMost } from './mappings.js';
import type { PageRun } from './page_table.js';

/** Adjacent pages of a shard in the chain. */
export interface SourceRange {
  image: number;
  shard: number;
  /** Bytes into the shard. */
  offset: number;
  pages: number;
}

/** Adjacent pages of a shard in the flat image. */
export interface FlatRange {
  shard: number;
  offset: number;
  pages: number;
}

export class FlattenPlan {
  /** Pages of the row. */
  readonly pages: number;
  readonly shards: number;
  readonly #ranges: ReadonlyMap<string, ShardRanges>;
  readonly #pagesPerShard: number;

  /**
   * @param runs What is read of each process.
   * @param shards Of the flat image.
   */
  constructor(runs: Iterable<PageRun>, shards: number) {
    const ranges = new Map<string, ShardRanges>();
    for (const run of runs) {
      const key = keyOf(run);
      const known = ranges.get(key);
      if (known === undefined) ranges.set(key, new ShardRanges(run));
      else known.add(run);
    }
    const inOrder = [...ranges.values()].sort((a, b) => a.image - b.image || a.shard - b.shard);
    this.pages = inOrder.reduce((row, each) => row + each.place(row), 0);
    this.shards = shards;
    this.#ranges = ranges;
    this.#pagesPerShard = Math.ceil(this.pages / shards);
  }

  /** What is to be copied, in the order of the row. */
  *sources(): Generator<SourceRange, void, undefined> {
    const inOrder = [...this.#ranges.values()].sort((a, b) => a.row - b.row);
    for (const ranges of inOrder) yield* ranges;
  }

  /** Where in the flat image the bytes of a run are; more than one range where shards meet. */
  *targets(run: PageRun): Generator<FlatRange, void, undefined> {
    const row = this.#ranges.get(keyOf(run))?.rowOf(run.offset / PAGE_BYTES);
    if (row === undefined) throw new RangeError('A run that was not planned');
    yield* this.cut(row, run.pages);
  }

  /** Where pages of the row are. */
  *cut(row: number, pages: number): Generator<FlatRange, void, undefined> {
    for (let at = row; at < row + pages; ) {
      const shard = Math.floor(at / this.#pagesPerShard);
      const end = Math.min(row + pages, (shard + 1) * this.#pagesPerShard);
      const offset = (at - shard * this.#pagesPerShard) * PAGE_BYTES;
      yield { shard, offset, pages: end - at };
      at = end;
    }
  }
}

/** What is read of one shard. */
class ShardRanges {
  readonly image: number;
  readonly shard: number;
  /** Of the first page, in the row. */
  row = 0;
  // By page of the shard. Two plain lists: there can be millions.
  #starts: number[] = [];
  #ends: number[] = [];
  /** Of each range, in the row. */
  #rows = new Float64Array();

  constructor(first: PageRun) {
    this.image = first.image;
    this.shard = first.shard;
    this.add(first);
  }

  add({ offset, pages }: PageRun): void {
    this.#starts.push(offset / PAGE_BYTES);
    this.#ends.push(offset / PAGE_BYTES + pages);
  }

  /** Puts the ranges in order and gives them their places; returns the pages of all of them. */
  place(row: number): number {
    this.#join();
    this.row = row;
    let next = row;
    this.#rows = Float64Array.from(this.#starts, (start, i) => {
      const here = next;
      next += (this.#ends[i] ?? 0) - start;
      return here;
    });
    return next - row;
  }

  /** Place in the row of a page that was added. */
  rowOf(page: number): number {
    const i = lastAtMost(this.#starts.length, (i) => this.#starts[i] ?? 0, page);
    return (this.#rows[i] ?? Number.NaN) + page - (this.#starts[i] ?? 0);
  }

  *[Symbol.iterator](): Generator<SourceRange, void, undefined> {
    const { image, shard } = this;
    for (const [i, start] of this.#starts.entries()) {
      yield { image, shard, offset: start * PAGE_BYTES, pages: (this.#ends[i] ?? 0) - start };
    }
  }

  /** Sorts the ranges and makes one of those that touch. */
  #join(): void {
    const starts = this.#starts;
    const ends = this.#ends;
    const order = Uint32Array.from(starts, (_, i) => i);
    order.sort((a, b) => (starts[a] ?? 0) - (starts[b] ?? 0));
    this.#starts = [];
    this.#ends = [];
    for (const i of order) {
      const start = starts[i] ?? 0;
      const end = ends[i] ?? 0;
      const last = this.#ends.length - 1;
      if (last >= 0 && start <= (this.#ends[last] ?? 0)) {
        this.#ends[last] = Math.max(this.#ends[last] ?? 0, end);
      } else {
        this.#starts.push(start);
        this.#ends.push(end);
      }
    }
  }
}

function keyOf({ image, shard }: PageRun): string {
  return `${image}:${shard}`;
}
