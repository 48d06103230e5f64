import { PAGE_SHIFT } from './layout.js';
import { RECORD_BYTES } from './page_table.js';

/** A record to be written. */
export interface NewRecord {
  address: bigint;
  pages: number;
  shard: number;
  /** Bytes into that shard. */
  offset: number;
}

const MOST_PAGES = 2 ** 32 - 1;

/** Makes a page table of records in ascending order; what goes on where the last one ends is joined to it. */
export class PageTableBuilder {
  #bytes = new Uint8Array(1024 * RECORD_BYTES);
  #used = 0;
  #last: NewRecord | undefined;

  add(record: NewRecord): void {
    const last = this.#last;
    if (last !== undefined && continues(last, record)) {
      last.pages += record.pages;
      return;
    }
    this.#flush();
    this.#last = { ...record };
  }

  finish(): Uint8Array {
    this.#flush();
    this.#last = undefined;
    return this.#bytes.subarray(0, this.#used);
  }

  #flush(): void {
    if (this.#last === undefined) return;
    if (this.#used === this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#bytes.length);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    const { address, pages, shard, offset } = this.#last;
    const view = new DataView(this.#bytes.buffer, this.#used, RECORD_BYTES);
    view.setBigUint64(0, address, true);
    view.setUint32(8, pages, true);
    view.setUint32(12, shard, true);
    view.setBigUint64(16, BigInt(offset), true);
    this.#used += RECORD_BYTES;
  }
}

function continues(last: NewRecord, next: NewRecord): boolean {
  const bytes = BigInt(last.pages) << PAGE_SHIFT;
  return (
    last.shard === next.shard &&
    last.address + bytes === next.address &&
    BigInt(last.offset) + bytes === BigInt(next.offset) &&
    last.pages + next.pages <= MOST_PAGES
  );
}
