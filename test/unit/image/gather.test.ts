/** Which reads of shards serve segments that lie across each other. */
import { expect, test } from 'vitest';
import { gather, MOST_GATHERED_BYTES } from '../../../packages/core/dist/image/gather.js';
import { PAGE } from './support.js';

type Segment = Parameters<typeof gather>[0] extends Iterable<infer Each> ? Each : never;

function own(image: number, page: number, pages: number, shard = 0): Segment {
  return { from: 'shard', image, shard, offset: page * PAGE, bytes: pages * PAGE };
}

/** In pages: image, shard, first page, pages, and the parts as first page, pages, place. */
const planOf = (segments: readonly Segment[]) =>
  gather(segments).map(({ image, shard, offset, bytes, parts }) => [
    ...[image, shard, offset / PAGE, bytes / PAGE],
    parts.map((part) => [part.offset / PAGE, part.bytes / PAGE, part.at / PAGE]),
  ]);

test('a run that pages of a later round lie across is read at once, and so are those pages', () => {
  const segments = [own(1, 10, 2), own(0, 5, 1), own(1, 13, 4), own(0, 6, 1), own(1, 18, 1)];
  const run = [
    [10, 2, 0],
    [13, 4, 3],
    [18, 1, 8],
  ];
  const later = [
    [5, 1, 2],
    [6, 1, 7],
  ];
  expect(planOf(segments)).toEqual([
    [0, 0, 5, 2, later],
    [1, 0, 10, 9, run],
  ]);
});

test('what is far away, in another shard, or would be too much, is read for itself', () => {
  expect(planOf([own(0, 0, 1), own(0, 100, 1), own(0, 101, 1, 1)])).toHaveLength(3);
  const most = MOST_GATHERED_BYTES / PAGE;
  expect(planOf([own(0, 0, most - 1), own(0, most - 1, 1)])).toHaveLength(1);
  expect(planOf([own(0, 0, most), own(0, most, 1)])).toHaveLength(2);
});

test('pages that are mapped twice are read once, in any order', () => {
  const zeros: Segment = { from: 'zeros', bytes: PAGE };
  expect(planOf([own(0, 8, 1), zeros, own(0, 7, 2), own(0, 7, 1)])).toEqual([
    [
      ...[0, 0, 7, 2],
      [
        [7, 2, 2],
        [7, 1, 4],
        [8, 1, 0],
      ],
    ],
  ]);
  expect(planOf([zeros])).toEqual([]);
});

test('pages that are mapped twice are read twice if the whole would be too much', () => {
  const most = MOST_GATHERED_BYTES / PAGE;
  expect(planOf([own(0, 0, 2 * most), own(0, 1, 1)])).toEqual([
    [0, 0, 0, 2 * most, [[0, 2 * most, 0]]],
    [0, 0, 1, 1, [[1, 1, 2 * most]]],
  ]);
});
