import { IN_PARENT } from './layout.js';
import type { PageTable } from './page_table.js';

/** Pages from one on, up to `stop`, which are all in one record or in none. */
export interface Found {
  /** Index of the image in its chain; -1 if none of those asked stores the pages. */
  image: number;
  /** Index of the record in that image's page table. */
  record: number;
  stop: number;
}

/**
 * The page tables of one process, those of the newest image first. They are not merged: each lookup
 * goes down the chain until an image has the bytes, and stops short wherever a table passed on the
 * way has something else to say.
 *
 *     newest   |==data==|---in parent---|
 *     middle       |=====data=====|
 *     oldest   |===========data============|
 *     found    |   0    |    1    |  2  | 2 |
 */
export class StoredPages {
  readonly tables: readonly PageTable[];

  constructor(tables: readonly PageTable[]) {
    this.tables = tables;
  }

  /** The newest record with data for `page`, of the image of this index or an older one. */
  find(newest: number, page: number, end: number): Found {
    return this.#find(newest, page, end, true);
  }

  /** @param withData Whether a record that leaves its pages to the images below is none. */
  #find(newest: number, page: number, end: number, withData: boolean): Found {
    let stop = end;
    for (let image = newest; image < this.tables.length; image += 1) {
      const table = this.tables[image];
      if (table === undefined) break;
      const record = table.lastFrom(page);
      if (record >= 0 && table.endPage(record) > page) {
        stop = Math.min(stop, table.endPage(record));
        const hasData = table.shard(record) !== IN_PARENT;
        if (hasData || !withData) return { image, record, stop };
      } else if (record + 1 < table.entries) {
        stop = Math.min(stop, table.startPage(record + 1));
      }
    }
    return { image: -1, record: -1, stop };
  }

  /**
   * Index of the first record of an image that leaves pages to the images below it of which one is not
   * there; -1 if there is none. A record below that leaves them further down counts as being there:
   * whoever asks this of all images learns the truth, and without going down the whole chain for each.
   */
  firstHole(image: number): number {
    const table = this.tables[image];
    if (table === undefined || table.pagesInParent === 0) return -1;
    for (let i = 0; i < table.entries; i += 1) {
      if (table.shard(i) !== IN_PARENT) continue;
      const end = table.endPage(i);
      for (let page = table.startPage(i); page < end; ) {
        const found = this.#find(image + 1, page, end, false);
        if (found.image < 0) return i;
        page = found.stop;
      }
    }
    return -1;
  }
}
