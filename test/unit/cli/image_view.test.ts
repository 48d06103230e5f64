import { describe, expect, it } from 'vitest';
import { renderImage } from '../../../packages/cli/dist/views/image.js';
import { reportImage, storedBytes } from '../../../packages/cli/dist/views/image_report.js';
import { renderVerified } from '../../../packages/cli/dist/views/verified.js';
import {
  open,
  PAGE,
  processOf,
  SMALL_PID,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeSmallImage,
  writeTestImage,
} from '../image/support.js';

/** A page number as an address. */
const at = (page: number) => BigInt(page * PAGE);
const range = (start: number, end: number) => ({ start: at(start), end: at(end) });
const run = (page: number, pages: number) => ({ address: at(page), pages, shard: 0, offset: 0 });

describe('storedBytes', () => {
  it('adds up runs per mapping, also of one that goes on into the next', () => {
    const vmas = [range(1, 3), range(3, 5), range(7, 8), range(9, 12)];
    const runs = [run(1, 1), run(2, 2), run(9, 1), run(11, 1)];
    expect(storedBytes(vmas, runs, PAGE)).toEqual([2, 1, 0, 2].map((pages) => pages * PAGE));
  });

  it('is nothing without runs', () => {
    expect(storedBytes([range(1, 3)], [], PAGE)).toEqual([0]);
  });

  it('is exact at the top of the address space', () => {
    const top = 2n ** 64n;
    const vmas = [{ start: top - at(2), end: top }];
    const runs = [{ address: top - at(1), pages: 1, shard: 0, offset: 0 }];
    expect(storedBytes(vmas, runs, PAGE)).toEqual([PAGE]);
  });
});

describe('reportImage', () => {
  it('is what the manifest says', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    const report = reportImage(image);
    expect(report).toMatchObject({
      dir,
      created: '2023-11-14T22:13:20.123Z',
      shards: [
        { file: 'shard-0000.img', bytes: 3 * PAGE },
        { file: 'shard-0001.img', bytes: PAGE },
      ],
      rounds: [{ kind: 'final', pages_written: 4, bytes_written: 4 * PAGE, frozen_time: 9 }],
      processes: [
        {
          pid: SMALL_PID,
          command_line: ['target', '', '--flag'],
          pages_stored: 4,
          bytes_mapped: 9 * PAGE,
          vmas: [{ start: SMALL_START, bytes: 8 * PAGE, bytes_stored: 4 * PAGE }, {}],
        },
      ],
    });
    // Whole mappings and single ranges, in order.
    expect(report.processes[0]?.left_out.map(({ reason }) => reason)).toEqual([
      'poisoned',
      'vsyscall',
    ]);
  });
});

describe('renderImage', () => {
  async function render(width: number | undefined): Promise<string> {
    const dir = await temporaryDir();
    const path = `/usr/${'long/'.repeat(40)}lib\u001b[2J.so`;
    const vmas = [
      vmaOf(0x7f00_0000_0000n, 1000, { path }),
      vmaOf(0xffff_ffff_ff60_0000n, 1, { kind: 'excluded', leftOut: 'because '.repeat(20) }),
    ];
    const commandLine = ['a', 'command'.repeat(40)];
    await writeTestImage({ dir, processes: [processOf({ vmas, commandLine })] });
    await using image = await open(dir);
    return renderImage({ ...reportImage(image), dir: 'image' }, width);
  }

  it('fits a terminal of 80 columns, and shows the end of paths', async () => {
    const text = await render(80);
    for (const line of text.split('\n')) expect([...line].length).toBeLessThanOrEqual(80);
    expect(text).toContain('long/lib\\x1b[2J.so');
  });

  it('shows all of it where there is no terminal, and nothing that moves a cursor', async () => {
    const text = await render(undefined);
    expect(text).toContain(`/usr/${'long/'.repeat(40)}lib\\x1b[2J.so`);
    expect(text).toContain('command'.repeat(40));
    expect(text).not.toContain('\u001b');
  });
});

describe('renderVerified', () => {
  const result = { shards: 2, pieces: 3, bytes: 5 * 1024 * 1024, checksum: 'crc32c' as const };

  it('says what was checked', () => {
    expect(renderVerified('x', result)).toBe(
      'x is undamaged, 3 checksums of pages hold (2 shards, 5.0 MiB)\n',
    );
    expect(renderVerified('x', { ...result, pieces: 0, checksum: 'none' })).toContain(
      'has no checksums of its pages',
    );
  });
});
