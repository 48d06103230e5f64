/** What a CRIU directory says of a round beside its pages. */
import type { ManifestRound } from '../image/manifest.js';
import type { Image } from '../image/reader.js';
import { MICROSECONDS_PER_TICK } from './ticks.js';

const MOST_U32 = 2 ** 32 - 1;

/**
 * An image does not say how long the machine was up. CRIU wants to know only whether the process that
 * has the pid now is the one that was dumped: then it started before that time. One tick after the
 * start is safe: another process with this pid starts after this one was dumped and ended, which is
 * later. That the pages are newer than that time does not matter to CRIU.
 */
export function uptimeOf({ processes }: Image): bigint {
  let last = 0n;
  for (const { startTimeTicks } of processes) if (startTimeTicks > last) last = startTimeTicks;
  return BigInt.asUintN(64, (last + 1n) * MICROSECONDS_PER_TICK);
}

/** Those of the last round: it is the one that froze the process. */
export function statsOf(round: ManifestRound | undefined) {
  const time = (name: string) => Math.min(MOST_U32, Math.round(round?.times[name] ?? 0));
  return {
    freezingTime: time('freezing_time'),
    frozenTime: time('frozen_time'),
    memdumpTime: time('memdump_time'),
    memwriteTime: time('memwrite_time'),
  };
}
