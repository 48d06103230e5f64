/** Whether what an image leaves to those below it is there, in chains made to take long. */
import { expect, test } from 'vitest';
import { Mappings } from '../../../packages/core/dist/image/mappings.js';
import { PageTableLoader } from '../../../packages/core/dist/image/page_table.js';
import { StoredPages } from '../../../packages/core/dist/image/stored_pages.js';
import { IN_PARENT } from './chain_support.js';
import { PAGE, pageTableOf, type TestRecord } from './support.js';

const PAGES = 60_000;
const IMAGES = 256;
const mapping = {
  ...{ start: 0n, end: BigInt(PAGES * PAGE), protection: 'rw-', shared: false, offset: 0n },
  ...{ device: '00:00', inode: 0n, path: '', kind: 'anonymous' as const, leftOut: '' },
  ...{ vmFlags: '', file: null },
};

function tableOf(records: readonly TestRecord[]) {
  const shards = [{ file: '', bytes: BigInt(PAGES * PAGE), crcs: new Uint8Array() }];
  const loader = new PageTableLoader(new Mappings({ vmas: [mapping] }), shards, true);
  loader.add(pageTableOf(records));
  return loader.finish();
}

const below = (page: number, pages: number) => ({
  ...{ address: BigInt(page * PAGE), pages, shard: IN_PARENT, offset: 0 },
});
const own = (page: number, pages = 1) => ({ ...below(page, pages), shard: 0 });

test('each image is looked at once, however many there are below it', () => {
  const scattered = tableOf(Array.from({ length: PAGES }, (_, i) => own(i)));
  const all = tableOf([below(0, PAGES)]);
  const stored = new StoredPages([...Array<typeof all>(IMAGES - 1).fill(all), scattered]);
  for (let i = 0; i < IMAGES; i += 1) expect(stored.firstHole(i)).toBe(-1);
});

test('the image that leaves pages to nobody is the one that is named', () => {
  const tables = [[below(0, 4), own(5)], [below(0, 2), own(2), below(3, 1)], [own(0, 2)]];
  const stored = new StoredPages(tables.map(tableOf));
  expect(tables.map((_, i) => stored.firstHole(i))).toEqual([-1, 2, -1]);
  const missing = [[below(0, 4), own(5)], [own(0, 3)]];
  expect(new StoredPages(missing.map(tableOf)).firstHole(0)).toBe(0);
});
