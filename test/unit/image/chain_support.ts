/** Synthetic chains: a session's directory with its rounds in it. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest, WriteImageOptions, WriteImageProcess } from '@sluice/core/image';
import type { CapturedVma, LeftOutRange } from '@sluice/native';
import {
  at,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  SMALL_START,
  type TestRecord,
  vmaOf,
  writeTestImage,
} from './support.js';

/** Shard of a record that leaves its pages to the chain below. */
export const IN_PARENT = 0xffff_ffff;

export const roundName = (round: number) => `round-${String(round).padStart(4, '0')}`;

/** A record of pages that are in a shard. */
export function own(page: number, pages: number, offsetPages: number, shard = 0): TestRecord {
  return { address: at(page), pages, shard, offset: offsetPages * PAGE };
}

/** A record of pages that are left to the chain below. */
export function below(page: number, pages: number): TestRecord {
  return { address: at(page), pages, shard: IN_PARENT, offset: 0 };
}

/** One image of a chain. */
export interface TestLevel {
  records: readonly TestRecord[];
  shards?: readonly Uint8Array[];
  vmas?: readonly CapturedVma[];
  leftOut?: readonly LeftOutRange[];
  process?: Partial<WriteImageProcess>;
  more?: Partial<WriteImageOptions>;
}

export const LIVE_ROUND = { kind: 'live', pagesWritten: 1, bytesWritten: PAGE, times: {} } as const;
export const FINAL_ROUND = { ...LIVE_ROUND, kind: 'final' } as const;

/**
 * Writes the oldest image to `round-0001`, and so on; the last one, a frozen one, to `dir` itself.
 *
 * @returns Their manifests, oldest first.
 */
export async function writeTestChain(
  dir: string,
  levels: readonly TestLevel[],
): Promise<Manifest[]> {
  const manifests: Manifest[] = [];
  for (const [i, level] of levels.entries()) {
    const isTop = i === levels.length - 1;
    const levelDir = isTop ? dir : join(dir, roundName(i + 1));
    if (!isTop) await mkdir(levelDir, { mode: 0o700 });
    const { records, shards = [], vmas = [vmaOf(SMALL_START, 12)], leftOut = [] } = level;
    const parent = i === 0 ? null : `${isTop ? '' : '../'}${roundName(i)}`;
    const pageTable = pageTableOf(records);
    const live = levels.slice(0, isTop ? i : i + 1).map(() => LIVE_ROUND);
    const written = await writeTestImage({
      dir: levelDir,
      shards,
      processes: [processOf({ vmas, leftOut, pageTable, ...level.process })],
      more: {
        consistency: isTop ? 'frozen' : 'live',
        round: i + 1,
        parent,
        rounds: isTop ? [...live, FINAL_ROUND] : live,
        ...level.more,
      },
    });
    manifests.push(written);
  }
  return manifests;
}

/** Data of the small chain, by round. */
export const SMALL_DATA = [pattern(9 * PAGE, 1), pattern(4 * PAGE, 2), pattern(PAGE, 3)] as const;

/**
 * Three images of a mapping of twelve pages; n is a page that is left to the chain below:
 *
 *     page      0  1  2  3  4  5  6  7  8  9 10 11
 *     round 1   a  b  c  d  e  f  g  h  i
 *     round 2         A  B  C              D
 *     final     n  n  n  n  n  n     *  n
 */
export function smallLevels(): [TestLevel, TestLevel, TestLevel] {
  return [
    { records: [own(0, 9, 0)], shards: [SMALL_DATA[0]] },
    { records: [own(2, 3, 0), own(9, 1, 3)], shards: [SMALL_DATA[1]] },
    { records: [below(0, 4), below(4, 2), own(7, 1, 0), below(8, 1)], shards: [SMALL_DATA[2]] },
  ];
}

export function writeSmallChain(dir: string): Promise<Manifest[]> {
  return writeTestChain(dir, smallLevels());
}

/** The memory of the small chain's process, as the final image has it. */
export function smallMemory(): Buffer {
  const [first, second, third] = SMALL_DATA;
  return Buffer.concat([
    first.subarray(0, 2 * PAGE),
    second.subarray(0, 3 * PAGE),
    first.subarray(5 * PAGE, 6 * PAGE),
    Buffer.alloc(PAGE),
    third,
    first.subarray(8 * PAGE),
    Buffer.alloc(3 * PAGE),
  ]);
}
