import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { renderImage } from '../../../packages/cli/dist/views/image.js';
import { reportImage, storedBytes } from '../../../packages/cli/dist/views/image_report.js';
import { renderVerified } from '../../../packages/cli/dist/views/verified.js';
import { writeSmallChain } from '../image/chain_support.js';
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
const run = (page: number, pages: number) => ({ address: at(page), pages });

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
    const runs = [{ address: top - at(1), pages: 1 }];
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
          threads: [{ namespace_tid: 7, signal_mask: 1n << 63n, rseq: { signature: 0x53053053 } }],
          state: { user_ids: [1000, 0, 0, 2 ** 32 - 1], limits: [{ name: 'NOFILE' }] },
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

describe('a chain', () => {
  it('is reported image by image, and its pages by where they are', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    await using image = await open(dir);
    const report = reportImage(image);
    expect(report).toMatchObject({
      round: 3,
      consistency: 'frozen',
      session: '0123456789abcdef0123456789abcdef',
      rounds: [{ kind: 'live' }, { kind: 'live' }, { kind: 'final' }],
      processes: [{ pages_stored: 1, pages_in_parent: 7, bytes_stored: 8 * PAGE }],
    });
    const live = { consistency: 'live', pages_in_parent: 0 };
    expect(report.chain).toEqual([
      { dir, round: 3, consistency: 'frozen', pages_stored: 1, pages_in_parent: 7, bytes: PAGE },
      { ...live, dir: join(dir, 'round-0002'), round: 2, pages_stored: 4, bytes: 4 * PAGE },
      { ...live, dir: join(dir, 'round-0001'), round: 1, pages_stored: 9, bytes: 9 * PAGE },
    ]);
    const text = renderImage(report, undefined);
    expect(text).toMatch(/taken +frozen, by vmsplice/);
    expect(text).toMatch(/stored +0\.0 MiB in 1 page, 7 pages in images below/);
    expect(text).toMatch(/^round 3 +frozen +1 +7 +0\.004 /m);
    expect(text).toMatch(/^round 2 +live +4 +0\.016 .*round-0002$/m);
  });

  it('is reported for a live image too, with a warning', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    await using image = await open(join(dir, 'round-0002'));
    const report = reportImage(image);
    expect(report.processes).toMatchObject([{ pages_stored: 4, pages_in_parent: 6 }]);
    expect(renderImage(report, undefined)).toContain('live, so that pages may not belong together');
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
    expect(text).toMatch(/user +1000\/0\/0\/4294967295, group 100\n/);
  });
});

describe('renderVerified', () => {
  const result = {
    images: 1,
    shards: 2,
    pieces: 3,
    bytes: 5 * 1024 * 1024,
    checksum: 'crc32c' as const,
  };

  it('says what was checked', () => {
    expect(renderVerified('x', result)).toBe(
      'x is undamaged, 3 checksums of pages hold (2 shards, 5.0 MiB)\n',
    );
    expect(renderVerified('x', { ...result, images: 4 })).toContain('(4 images, 2 shards');
    expect(renderVerified('x', { ...result, pieces: 0, checksum: 'none' })).toContain(
      'has no checksums of its pages',
    );
  });
});
