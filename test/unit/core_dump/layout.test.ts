/** The frame of a core: headers, also where there are more than ELF was made for. */
import { describe, expect, test } from 'vitest';
import { layOut } from '../../../packages/core/dist/core_dump/elf.js';
import { readCore } from './elf_reader.js';

const PAGE = 4096n;

function segment(i: number, pages: number, stored: number, protection = 'rw-') {
  const start = 0x10_0000n + BigInt(i) * 16n * PAGE;
  const at = (page: number) => start + BigInt(page) * PAGE;
  return { start, end: at(pages), storedEnd: at(stored), protection };
}

const NOTE = Uint8Array.of(5, 0, 0, 0, 4, 0, 0, 0, 99, 0, 0, 0, ...Buffer.from('CORE\0\0\0\0abcd'));

describe('layOut()', () => {
  test('has a header for each segment, whose bytes follow one another', () => {
    const segments = [
      segment(0, 3, 3, 'r-x'),
      segment(1, 2, 0, '---'),
      segment(2, 4, 1, 'rw-'),
      segment(3, 1, 1, 'rwx'),
    ];
    const { head, offsets, bytes } = layOut(segments, [NOTE, NOTE]);
    const core = readCore(Buffer.from(head));
    expect(core.header).toEqual({
      type: 4,
      machine: 62,
      programHeaders: 5,
      sectionHeaders: 0,
    });
    expect(core.notes).toMatchObject([
      { owner: 'CORE', type: 99, bytes: Buffer.from('abcd') },
      { owner: 'CORE', type: 99 },
    ]);
    expect(core.segments[0]).toMatchObject({ type: 4, flags: 0, fileBytes: 48, memoryBytes: 0n });
    expect(head.length % 4096).toBe(0);
    const at = (page: number) => head.length + page * 4096;
    expect(offsets).toEqual([at(0), at(3), at(3), at(4)]);
    expect(bytes).toBe(at(5));
    expect(core.loads.map(({ flags, fileBytes }) => [flags, fileBytes])).toEqual([
      [5, 3 * 4096],
      [0, 0],
      [6, 4096],
      [7, 4096],
    ]);
    core.loads.forEach(({ address, memoryBytes, offset, alignment }, i) => {
      expect([address, address + memoryBytes]).toEqual([segments[i]?.start, segments[i]?.end]);
      expect([offset, alignment]).toEqual([offsets[i], 4096]);
    });
  });

  test.each([
    [65_533, 65_534, 0],
    [65_534, 0xffff, 1],
    [70_000, 0xffff, 1],
  ])('takes %i segments', (count, programHeaders, sectionHeaders) => {
    const segments = Array.from({ length: count }, (_, i) => segment(i, 1, i % 2));
    const { head } = layOut(segments, [NOTE]);
    const core = readCore(Buffer.from(head));
    expect(core.header).toMatchObject({ programHeaders, sectionHeaders });
    expect(core.segments).toHaveLength(count + 1);
    expect(core.loads.at(-1)?.address).toBe(segments.at(-1)?.start);
    expect(core.notes).toHaveLength(1);
  });
});
