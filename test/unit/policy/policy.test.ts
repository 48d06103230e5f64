/** The round policy against simulated targets: it ends, it freezes briefly, and it keeps its limits. */
import { describe, expect, it } from 'vitest';
import {
  type Decision,
  decide,
  type PolicyOptions,
  predictFreezeMs,
  type RoundMeasure,
} from '../../../packages/core/dist/schedule/policy.js';

interface Simulated {
  pages: number;
  /** Writes per millisecond, at random over `hotPages`. */
  writesPerMs: number;
  hotPages: number;
  /** What a drain moves. */
  pagesPerMs: number;
  /** Fixed cost of a round, ms. */
  overheadMs: number;
}

const GIB: Simulated = {
  pages: 262_144,
  writesPerMs: 0,
  hotPages: 262_144,
  pagesPerMs: 500,
  overheadMs: 12,
};

const DEFAULTS: PolicyOptions = {
  rounds: 'auto',
  mostAutoRounds: 30,
  freezeBudgetMs: undefined,
  timeLimitMs: undefined,
  noConverge: 'finish',
  twin: false,
};

interface Outcome {
  rounds: number;
  /** Pages that the freeze finds. */
  left: number;
  elapsedMs: number;
  end: Decision['next'];
}

/** Pages that are written to at least once in this time. */
function touched({ hotPages, writesPerMs }: Simulated, ms: number): number {
  return Math.round(hotPages * (1 - Math.exp((-writesPerMs * ms) / hotPages)));
}

function simulate(target: Simulated, wishes: Partial<PolicyOptions> = {}): Outcome {
  const rounds: RoundMeasure[] = [];
  let dirtyPages = target.pages;
  let elapsedMs = 100;
  let sinceCollectedMs = 0;
  for (let steps = 0; steps < 1000; steps++) {
    const { next } = decide(
      { ...DEFAULTS, ...wishes },
      { rounds, dirtyPages, sinceCollectedMs, existingPages: target.pages, elapsedMs },
    );
    if (next === 'freeze' || next === 'fail') {
      return { rounds: rounds.length, left: dirtyPages, elapsedMs, end: next };
    }
    const ms = target.overheadMs + dirtyPages / target.pagesPerMs;
    rounds.push({ pages: dirtyPages, ms });
    elapsedMs += ms;
    sinceCollectedMs = ms;
    dirtyPages = touched(target, ms);
    if (next === 'last') return { rounds: rounds.length, left: dirtyPages, elapsedMs, end: next };
  }
  throw new Error('The policy did not come to an end');
}

describe('decide', () => {
  it('knows that a twin bounds the freeze, and takes rounds all the same', () => {
    const fast = { ...GIB, writesPerMs: 300 };
    const state = {
      rounds: [{ pages: GIB.pages, ms: 500 }],
      dirtyPages: 100_000,
      sinceCollectedMs: 500,
      existingPages: GIB.pages,
      elapsedMs: 600,
    };
    const copied = decide(DEFAULTS, state);
    const bounded = decide({ ...DEFAULTS, twin: true }, state);
    expect(copied.freezeMs).toBeGreaterThan(100);
    expect(bounded.freezeMs).toBeLessThan(30);
    expect(bounded.next).toBe(copied.next);
    expect(simulate(fast, { twin: true })).toEqual(simulate(fast));
    const strict = { freezeBudgetMs: 30, noConverge: 'fail', rounds: 1 } as const;
    expect(decide({ ...DEFAULTS, ...strict }, state).next).toBe('fail');
    expect(decide({ ...DEFAULTS, ...strict, twin: true }, state).next).toBe('freeze');
  });

  it('takes one round of a target that stands still, and freezes', () => {
    expect(simulate(GIB)).toMatchObject({ rounds: 1, left: 0 });
  });

  it('takes rounds until they leave no less', () => {
    for (const writesPerMs of [1, 10, 100, 300]) {
      const target = { ...GIB, writesPerMs };
      const { rounds, left } = simulate(target);
      expect(rounds).toBeGreaterThan(1);
      expect(rounds).toBeLessThan(30);
      // What a round leaves that is as short as a round can be, give or take what is not worth one.
      let least = target.pages;
      for (let i = 0; i < 100; i++) {
        least = touched(target, target.overheadMs + least / target.pagesPerMs);
      }
      expect(predictFreezeMs(left, target.pages)).toBeLessThan(
        1.35 * predictFreezeMs(least, target.pages) + 0.4,
      );
    }
  });

  it('does not go on for a target that writes faster than is drained', () => {
    for (const writesPerMs of [600, 5000, 1e6]) {
      const { rounds, end } = simulate({ ...GIB, writesPerMs });
      expect(rounds).toBeLessThanOrEqual(8);
      expect(['freeze', 'last']).toContain(end);
    }
  });

  it('does not go on for the pages of a hot set', () => {
    const target = { ...GIB, writesPerMs: 1e5, hotPages: 5000 };
    const { rounds, left } = simulate(target);
    expect(rounds).toBeLessThanOrEqual(5);
    expect(left).toBe(5000);
  });

  it('freezes right after one more round where another look would find as much again', () => {
    const rounds = [
      { pages: GIB.pages, ms: 500 },
      { pages: 6000, ms: 30 },
    ];
    const state = { rounds, sinceCollectedMs: 18, existingPages: GIB.pages, elapsedMs: 600 };
    expect(decide(DEFAULTS, { ...state, dirtyPages: 1800 }).next).toBe('last');
    // So few are copied as soon as that round is begun.
    expect(decide(DEFAULTS, { ...state, dirtyPages: 100 }).next).toBe('freeze');
  });

  it('goes on until the freeze budget is reached, and no longer', () => {
    const target = { ...GIB, writesPerMs: 100 };
    const auto = simulate(target);
    const { rounds, left } = simulate(target, { freezeBudgetMs: 12 });
    expect(predictFreezeMs(left, target.pages)).toBeLessThanOrEqual(12);
    expect(rounds).toBeLessThan(auto.rounds);
  });

  it('finishes, or fails, where the freeze budget cannot be reached', () => {
    const target = { ...GIB, writesPerMs: 1e6 };
    const budget = { freezeBudgetMs: 2 };
    expect(simulate(target, budget).end).toBe('freeze');
    const failed = simulate(target, { ...budget, noConverge: 'fail' });
    expect(failed.end).toBe('fail');
    expect(failed.rounds).toBeLessThanOrEqual(8);
  });

  it('never fails where the budget is kept, nor without one', () => {
    const fail = { noConverge: 'fail' } as const;
    expect(simulate({ ...GIB, writesPerMs: 1e6 }, fail).end).not.toBe('fail');
    expect(simulate(GIB, { ...fail, freezeBudgetMs: 5 }).end).toBe('freeze');
  });

  it('takes just the rounds that were asked for', () => {
    for (const rounds of [1, 2, 7]) {
      for (const writesPerMs of [0, 100, 1e6]) {
        expect(simulate({ ...GIB, writesPerMs }, { rounds }).rounds).toBe(rounds);
      }
    }
  });

  it('looks once more before the freeze if it may have to fail', () => {
    const wishes = { rounds: 2, freezeBudgetMs: 2, noConverge: 'fail' } as const;
    expect(simulate({ ...GIB, writesPerMs: 1e6 }, wishes)).toMatchObject({
      rounds: 2,
      end: 'fail',
    });
    expect(simulate(GIB, wishes)).toMatchObject({ rounds: 2, end: 'freeze' });
  });

  it('begins no round that would end after the time limit', () => {
    const target = { ...GIB, writesPerMs: 400 };
    for (const timeLimitMs of [50, 700, 900]) {
      const { elapsedMs } = simulate(target, { timeLimitMs });
      expect(elapsedMs).toBeLessThanOrEqual(Math.max(100, 1.1 * timeLimitMs));
    }
    expect(simulate(target, { timeLimitMs: 50 }).rounds).toBe(0);
  });

  it('ends for any target', () => {
    let seed = 1;
    const random = () => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed / 2_147_483_647;
    };
    for (let i = 0; i < 2000; i++) {
      const pages = Math.ceil(10 ** (7 * random()));
      const target: Simulated = {
        pages,
        hotPages: Math.ceil(pages * random()),
        writesPerMs: 10 ** (8 * random() - 2),
        pagesPerMs: 10 ** (4 * random() - 1),
        overheadMs: 100 * random(),
      };
      const { rounds } = simulate(target, random() < 0.5 ? { freezeBudgetMs: 10 * random() } : {});
      expect(rounds).toBeLessThanOrEqual(30);
    }
  });
});
