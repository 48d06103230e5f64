/**
 * When to freeze: after each look at how much was written, whether another round while the target
 * runs makes the freeze shorter by enough. Pure, so that it can be simulated.
 *
 * ```
 *   pages written
 *   since collected   d(k+1) = rate * T(d(k)),  T(d) = overhead + d / speed
 *        │█
 *        │█ ▄               A round as long as the last one leaves as much behind: it pays as long as
 *        │█ █ ▂ ▁ ▁ ▁       rounds get shorter.
 *        └─────────── rounds
 * ```
 */

/** What the caller wishes. */
export interface PolicyOptions {
  /** `auto`: as many rounds as pay. A number: that many, none more. */
  rounds: 'auto' | number;
  /** `auto` takes no more than this. */
  mostAutoRounds: number;
  /** The freeze should not be longer; undefined: as short as pays. Milliseconds. */
  freezeBudgetMs: number | undefined;
  /** Rounds end about then, milliseconds after the start; undefined: no limit. */
  timeLimitMs: number | undefined;
  /** What to do when the freeze budget cannot be reached. */
  noConverge: 'finish' | 'fail';
  /** A copy-on-write twin can be made when too many pages are left to be copied. */
  twin: boolean;
}

/** What was measured. */
export interface PolicyState {
  /** Rounds taken so far. */
  rounds: readonly RoundMeasure[];
  /** Pages to be taken now. */
  dirtyPages: number;
  /** Since the pages of the last round were collected, milliseconds; 0 before the first. */
  sinceCollectedMs: number;
  /** Pages that exist: no more can be written. */
  existingPages: number;
  /** Since the start, milliseconds. */
  elapsedMs: number;
}

export interface RoundMeasure {
  /** That the round took. */
  pages: number;
  /** From the look before it to its last page in a shard, milliseconds. */
  ms: number;
}

export interface Decision {
  /**
   * `round`: take another one, and then look again. `last`: take another one and freeze right after
   * it. `freeze`: without another one. `fail`: the freeze budget cannot be reached.
   */
  next: 'round' | 'last' | 'freeze' | 'fail';
  /** How long the freeze would be right now, milliseconds. */
  freezeMs: number;
  /** Pages that the target writes to per second; 0 before the first round. */
  pagesPerSecond: number;
}

// Measured on one machine; they need only be right in proportion.
const FREEZE_BASE_MS = 0.5;
const SCAN_MS_PER_PAGE = 0.4 / 262_144;
const COPY_MS_PER_PAGE = 0.001;
const TWIN_MS_PER_PAGE = 0.00008;
const ROUND_OVERHEAD_MS = 15;
/** Of a round that the freeze follows at once: nobody waits for a look, or for the drains. */
const LAST_OVERHEAD_MS = 5;
/** Until a round was measured: 1 GB/s. */
const FIRST_PAGES_PER_MS = 250;

/** A round must make the freeze shorter by so much, or by that part of it. */
const LEAST_GAIN_MS = 0.1;
const LEAST_GAIN = 0.07;
/** So many looks in a row that find no less than one before: it does not converge. */
const STILL_ROUNDS = 3;

/** How long a freeze would be that copies so many pages, milliseconds. */
export function predictFreezeMs(dirtyPages: number, existingPages: number): number {
  return FREEZE_BASE_MS + existingPages * SCAN_MS_PER_PAGE + dirtyPages * COPY_MS_PER_PAGE;
}

export function decide(options: PolicyOptions, state: PolicyState): Decision {
  const { rounds, dirtyPages, sinceCollectedMs, existingPages, elapsedMs } = state;
  const pagesPerMs = rounds.length === 0 ? 0 : dirtyPages / Math.max(sinceCollectedMs, 1);
  // Rounds are weighed by what copying would take: they pay though a twin may be sooner made by now.
  const copyMs = predictFreezeMs(dirtyPages, existingPages);
  const freezeMs = options.twin
    ? Math.min(copyMs, predictFreezeMs(0, existingPages) + existingPages * TWIN_MS_PER_PAGE)
    : copyMs;
  const decision = (next: Decision['next']): Decision => ({
    next,
    freezeMs,
    pagesPerSecond: pagesPerMs * 1000,
  });
  /** The freeze comes now, unless it would be longer than the caller allows. */
  const end = (): Decision => {
    const { freezeBudgetMs, noConverge } = options;
    const tooLong = freezeBudgetMs !== undefined && freezeMs > freezeBudgetMs;
    return decision(tooLong && noConverge === 'fail' ? 'fail' : 'freeze');
  };

  const left =
    (options.rounds === 'auto' ? options.mostAutoRounds : options.rounds) - rounds.length;
  if (left <= 0) return end();
  const nextMs = roundMs(rounds, dirtyPages);
  if (options.timeLimitMs !== undefined && elapsedMs + nextMs > options.timeLimitMs) return end();
  if (options.rounds !== 'auto')
    return decision(left === 1 && mayFreeze(options) ? 'last' : 'round');
  if (rounds.length === 0) return decision('round');

  const { freezeBudgetMs } = options;
  if (freezeBudgetMs !== undefined && freezeMs <= freezeBudgetMs) return decision('freeze');
  const after = (pages: number, overheadMs?: number) =>
    Math.min(existingPages, pagesPerMs * roundMs(rounds, pages, overheadMs));
  const dirtyThen = after(dirtyPages);
  const thenMs = predictFreezeMs(dirtyThen, existingPages);
  const laterMs = predictFreezeMs(after(dirtyThen), existingPages);
  if (freezeBudgetMs !== undefined) {
    // Not "last": whether it is reached is looked at before the freeze, not predicted.
    return isStill(rounds, dirtyPages) ? end() : decision('round');
  }
  if (pays(copyMs, thenMs) && !isStill(rounds, dirtyPages)) {
    return decision(pays(thenMs, laterMs) ? 'round' : 'last');
  }
  const lastMs = predictFreezeMs(after(dirtyPages, LAST_OVERHEAD_MS), existingPages);
  return pays(copyMs, lastMs) ? decision('last') : end();
}

/** Whether the freeze may follow a round without another look. */
function mayFreeze({ freezeBudgetMs, noConverge }: PolicyOptions): boolean {
  return freezeBudgetMs === undefined || noConverge === 'finish';
}

function pays(nowMs: number, thenMs: number): boolean {
  return nowMs - thenMs >= Math.max(LEAST_GAIN_MS, LEAST_GAIN * nowMs);
}

/** Whether the last rounds found about as much as one before them: nothing gets less any more. */
function isStill(rounds: readonly RoundMeasure[], dirtyPages: number): boolean {
  const found = [...rounds.map(({ pages }) => pages), dirtyPages];
  const before = found.slice(0, -STILL_ROUNDS);
  return before.length > 0 && Math.min(...found.slice(-STILL_ROUNDS)) >= 0.9 * Math.min(...before);
}

/** How long a round with so many pages takes, by what the rounds before it took. */
function roundMs(
  rounds: readonly RoundMeasure[],
  pages: number,
  overheadMs = ROUND_OVERHEAD_MS,
): number {
  const largest = rounds.reduce((most, round) => (round.pages > most.pages ? round : most), {
    pages: 0,
    ms: 0,
  });
  const pagesPerMs =
    largest.pages === 0
      ? FIRST_PAGES_PER_MS
      : largest.pages / Math.max(largest.ms - ROUND_OVERHEAD_MS, largest.ms / 2);
  return overheadMs + pages / pagesPerMs;
}
