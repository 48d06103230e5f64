/** Segments of a core whose pages have their places already. */
import { describe, expect, test } from 'vitest';
import { endsOf } from '../../../packages/core/dist/core_dump/elf.js';
import { placeSegments } from '../../../packages/core/dist/core_dump/placed.js';
import { readCore } from './elf_reader.js';

const PAGE = 4096;
const BASE = 0x10_0000n;
const at = (page: number) => BASE + BigInt(page * PAGE);

/** Of pages: start, end, end of what is stored. */
function segment(start: number, end: number, stored: number, protection = 'rw-') {
  return { start: at(start), end: at(end), storedEnd: at(stored), protection };
}

/** Of pages: start, end, place in the file. */
function placesOf(end: number, ...extents: [number, number, number][]) {
  return {
    ranges: BigUint64Array.from(extents.flatMap(([from, to]) => [at(from), at(to)])),
    offsets: Float64Array.from(extents, ([, , offset]) => offset * PAGE),
    end: end * PAGE,
  };
}

function placed(segments: ReturnType<typeof segment>[], places: ReturnType<typeof placesOf>) {
  const { placed: all, end } = placeSegments(segments, places);
  const page = (address: bigint) => Number(address - BASE) / PAGE;
  const parts = all.map(({ start, end: stop, storedEnd, offset }) => {
    return [page(start), page(stop), page(storedEnd), offset / PAGE];
  });
  return { parts, end: end / PAGE };
}

describe('placeSegments()', () => {
  test('takes pages where they are', () => {
    const places = placesOf(20, [0, 4, 1], [6, 10, 5]);
    expect(placed([segment(0, 4, 4), segment(6, 10, 7)], places)).toEqual({
      parts: [
        [0, 4, 4, 1],
        [6, 10, 7, 5],
      ],
      end: 20,
    });
    expect(placed([segment(2, 3, 3), segment(3, 4, 4), segment(8, 9, 9)], places).parts).toEqual([
      [2, 3, 3, 3],
      [3, 4, 4, 4],
      [8, 9, 9, 7],
    ]);
  });

  test('cuts a mapping that grew, and gives what is new in it a place at the end', () => {
    const places = placesOf(30, [2, 4, 10], [4, 6, 20], [8, 10, 24]);
    expect(placed([segment(0, 12, 12)], places)).toEqual({
      parts: [
        [0, 2, 2, 30],
        [2, 4, 4, 10],
        [4, 6, 6, 20],
        [6, 8, 8, 32],
        [8, 10, 10, 24],
        [10, 12, 12, 34],
      ],
      end: 36,
    });
  });

  test('does not cut where places go on in the file', () => {
    const places = placesOf(30, [0, 4, 10], [4, 6, 14], [6, 8, 20]);
    expect(placed([segment(0, 8, 8)], places).parts).toEqual([
      [0, 6, 6, 10],
      [6, 8, 8, 20],
    ]);
    expect(placed([segment(0, 4, 4), segment(4, 6, 6)], places).parts).toEqual([
      [0, 4, 4, 10],
      [4, 6, 6, 14],
    ]);
  });

  test('leaves what is not stored to the last part', () => {
    const places = placesOf(30, [0, 2, 10], [2, 9, 20]);
    expect(placed([segment(0, 9, 3), segment(9, 12, 9), segment(12, 14, 13)], places)).toEqual({
      parts: [
        [0, 2, 2, 10],
        [2, 9, 3, 20],
        [9, 12, 9, 30],
        [12, 14, 13, 30],
      ],
      end: 31,
    });
  });
});

test('endsOf() makes headers for wherever the tables are', () => {
  const note = Uint8Array.of(
    5,
    0,
    0,
    0,
    4,
    0,
    0,
    0,
    99,
    0,
    0,
    0,
    ...Buffer.from('CORE\0\0\0\0abcd'),
  );
  for (const count of [2, 70_000]) {
    const segments = Array.from({ length: count }, (_, i) => {
      return { ...segment(2 * i, 2 * i + 1, 2 * i + 1), offset: (i % 7) * PAGE };
    });
    const start = 9 * PAGE;
    const { header, tables } = endsOf(segments, [note], start);
    const bytes = Buffer.concat([header, Buffer.alloc(start - header.length), tables]);
    const core = readCore(bytes);
    expect(core.notes).toMatchObject([{ owner: 'CORE', type: 99, bytes: Buffer.from('abcd') }]);
    expect(core.loads.length).toBe(count);
    expect(core.loads[1]).toMatchObject({ address: at(2), offset: PAGE, fileBytes: PAGE });
  }
});
