/** What rounds leave of the pause: of a target that writes all the time, as it sees it itself. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, type DumpChoice, type Faults, NO_GCORE, Skipped } from '../bench.js';
import type { BenchTarget, Stop } from '../bench_target.js';
import { type Figure, fixed, show, showPercent, sizeName, type Verdict } from '../report.js';
import { clockUs, type DumpSample } from '../sample.js';
import { at, interleave, medianOf, of, ratioOf, type Spread, spreadBy } from '../statistics.js';

const WORDS_PER_SECOND = 100_000;
/** What the comparison is made with, if it is among the sizes. */
const COMPARED_MIB = 1024;
/** The target is left alone for so long before each dump, to know what it writes then. */
const UNDISTURBED_MS = 500;

const LEAST_GCORE = 500;
const LEAST_ONE_FREEZE = 100;
const MOST_COPYING = 1.2;
const LEAST_WRITES = 0.8;
const MOST_MS_PER_GIB = 1;
const AGREE_WITHIN_US = 200;
const AGREE_WITHIN = 0.2;

const MIB_PER_GIB = 1024;
const MS = 1000;

const DUMPS = {
  rounds: { choice: { checksum: 'none' }, faults: [] },
  'rounds with copying vmsplice': {
    choice: { checksum: 'none', capture: 'vmsplice' },
    faults: [{ call: 'remote:vmsplice', mode: 'copy' }],
  },
  'one freeze': { choice: { checksum: 'none', rounds: 0, consistency: 'copy' }, faults: [] },
} satisfies Record<string, { choice: DumpChoice; faults: Faults }>;

type Case = keyof typeof DUMPS | 'gcore';

interface RoundsSample {
  /** The pause: how long the target stood still. */
  seenUs: number;
  /** How long of that it could have run and waited for a CPU. */
  waitedUs: number;
  /** Longest time between two looks at the clock, for any reason. */
  gapUs: number;
  /** What the engine says, if it was Sluice. */
  engine?: {
    frozenUs: number;
    /** Single threads, for starting the helpers. */
    attachStoppedUs: number;
    rounds: number;
    finalPages: number;
    /** What the target wrote during live rounds, of what it wrote before; if there were any. */
    writes: number | undefined;
  };
}

interface SizeRuns {
  mib: number;
  runs: Map<Case, RoundsSample[]>;
}

export async function rounds(bench: Bench): Promise<Figure> {
  const { capture, tracker, trackerReason } = await bench.defaults();
  if (tracker === 'none') throw new Skipped(`no rounds here: ${trackerReason}`);
  const sizes = bench.roundsSizes();
  if (sizes.length === 0) throw new Skipped('no target of the sizes asked for fits here');
  const compared = sizes.includes(COMPARED_MIB) ? COMPARED_MIB : at(sizes, -1);
  const cases: Case[] = [
    'rounds',
    ...(capture === 'vmsplice' ? (['rounds with copying vmsplice'] as const) : []),
    'one freeze',
    ...(bench.hasGcore ? (['gcore'] as const) : []),
  ];
  const all: SizeRuns[] = [];
  for (const mib of sizes) {
    all.push({ mib, runs: await measure(bench, mib, mib === compared ? cases : ['rounds']) });
  }
  const { runs } = at(
    all.filter(({ mib }) => mib === compared),
    0,
  );
  return {
    title:
      `Pause of a target that writes ${WORDS_PER_SECOND} random words a second, as it sees it, ` +
      'without checksums',
    rows: [
      [
        '',
        'pause seen, ms',
        'of it waiting',
        'frozen_time, ms',
        'largest gap, ms',
        'rounds',
        'last pages',
        'writes',
      ],
      ...all.flatMap(rowsOf),
    ],
    verdicts: [...comparisons(runs), ...verdictsOf(of(runs, 'rounds')), ...growthOf(all)],
    notes: [
      'pause seen: the time in which the watching thread was stopped; of it waiting: for a CPU, when',
      'it could run again; largest gap: between two looks at the clock, also because others, as the',
      'threads of the dumper, had the CPU. writes: during the rounds, of undisturbed',
      `single threads stopped to start helpers, ms: ${attachOf(of(runs, 'rounds'))}`,
      ...(bench.hasGcore ? [] : [NO_GCORE]),
      ...(capture === 'vmsplice' ? [] : ['no vmsplice here that could be made to copy']),
    ],
    data: all.map(({ mib, runs }) => ({ mib, runs: Object.fromEntries(runs) })),
  };
}

function measure(bench: Bench, mib: number, cases: Case[]): Promise<Map<Case, RoundsSample[]>> {
  return bench.withTarget(mib, async (target) => {
    await target.write(WORDS_PER_SECOND);
    return interleave(bench.options.runs, cases, (each, round) => {
      bench.tell(`rounds, ${sizeName(mib)}, run ${round + 1}: ${each}`);
      return each === 'gcore' ? withGcore(bench, target) : withSluice(bench, target, each);
    });
  });
}

async function withGcore(bench: Bench, target: BenchTarget): Promise<RoundsSample> {
  const { gapUs, stops } = await target.watch(async () => void (await bench.gcore(target)));
  return { gapUs, ...longest(stops) };
}

async function withSluice(
  bench: Bench,
  target: BenchTarget,
  which: keyof typeof DUMPS,
): Promise<RoundsSample> {
  const { choice, faults } = DUMPS[which];
  let made: { dump: DumpSample; beforeUs: number } | undefined;
  const { gapUs, stops } = await target.watch(async () => {
    const beforeUs = clockUs();
    await sleep(UNDISTURBED_MS);
    made = { beforeUs, dump: await bench.dump(target, choice, faults) };
  });
  if (made === undefined) throw new Error('no dump was made');
  const { dump, beforeUs } = made;
  const { result, startUs } = dump;
  const first = at(result.rounds, 0);
  const final = at(result.rounds, -1);
  const finalUs = startUs + final.start_time;
  const { frozen_time: frozenUs, attach_stopped_time: attachStoppedUs } = result;
  let writes: number | undefined;
  if (first.kind === 'live') {
    const undisturbed = await target.writtenPerSecond(beforeUs, beforeUs + UNDISTURBED_MS * MS);
    const during = await target.writtenPerSecond(startUs + first.start_time, finalUs);
    writes = during / undisturbed;
  }
  return {
    gapUs,
    // The freeze, and not a stop before it.
    ...longest(stops.filter(({ fromUs, us }) => fromUs + us > finalUs)),
    engine: {
      frozenUs,
      attachStoppedUs,
      rounds: result.rounds.length,
      finalPages: final.pages_written,
      writes,
    },
  };
}

export function longest(stops: Stop[]): Pick<RoundsSample, 'seenUs' | 'waitedUs'> {
  const { us, waitedUs } = at(
    stops.sort((a, b) => a.us - b.us),
    -1,
  );
  return { seenUs: us, waitedUs };
}

function rowsOf({ mib, runs }: SizeRuns): string[][] {
  return [...runs].map(([each, samples]) => {
    const engines = samples.flatMap(({ engine }) => engine ?? []);
    const writes = engines.flatMap((engine) => engine.writes ?? []);
    const ofEngine = (text: () => string) => (engines.length === 0 ? '' : text());
    return [
      `${sizeName(mib)}, ${each}`,
      show(spreadBy(samples, seen), 2, MS),
      fixed(spreadBy(samples, ({ waitedUs }) => waitedUs).median / MS, 2),
      ofEngine(() =>
        show(
          spreadBy(engines, ({ frozenUs }) => frozenUs),
          2,
          MS,
        ),
      ),
      show(
        spreadBy(samples, ({ gapUs }) => gapUs),
        2,
        MS,
      ),
      ofEngine(() =>
        show(
          spreadBy(engines, ({ rounds }) => rounds),
          0,
        ),
      ),
      ofEngine(() =>
        show(
          spreadBy(engines, ({ finalPages }) => finalPages),
          0,
        ),
      ),
      writes.length === 0 ? '' : showPercent(spreadBy(writes, (share) => share)),
    ];
  });
}

function comparisons(runs: ReadonlyMap<Case, RoundsSample[]>): Verdict[] {
  const rounds = of(runs, 'rounds').map(seen);
  const times = (each: Case) => ratioOf(of(runs, each).map(seen), rounds);
  const verdict = (each: Case, target: string, isMet: (ratio: Spread) => boolean): Verdict[] => {
    if (!runs.has(each)) return [];
    const ratio = times(each);
    const value = `${show(ratio, ratio.median < 10 ? 2 : 0)} times that of rounds`;
    return [{ what: `pause of ${each}`, target, value, met: isMet(ratio) }];
  };
  return [
    ...verdict('gcore', `at least ${LEAST_GCORE}`, ({ median }) => median >= LEAST_GCORE),
    ...verdict('one freeze', `at least ${LEAST_ONE_FREEZE}`, ({ median }) => {
      return median >= LEAST_ONE_FREEZE;
    }),
    ...verdict('rounds with copying vmsplice', `at most ${MOST_COPYING}`, ({ median }) => {
      return median <= MOST_COPYING;
    }),
  ];
}

function verdictsOf(samples: RoundsSample[]): Verdict[] {
  const differences = samples.map((run) => seen(run) - (run.engine?.frozenUs ?? 0));
  const mostUs = Math.max(AGREE_WITHIN_US, AGREE_WITHIN * medianOf(samples.map(seen)));
  const writes = spreadBy(samples, ({ engine }) => engine?.writes ?? 0);
  return [
    {
      what: 'pause seen less frozen_time',
      target: `within ${AGREE_WITHIN_US / MS} ms or ${AGREE_WITHIN * 100} %`,
      value: `${show(
        spreadBy(differences, (difference) => difference),
        2,
        MS,
      )} ms`,
      met: medianOf(differences.map(Math.abs)) <= mostUs,
    },
    {
      what: 'what the target writes during rounds',
      target: `at least ${LEAST_WRITES * 100} % of undisturbed`,
      value: showPercent(writes),
      met: writes.median >= LEAST_WRITES,
    },
  ];
}

/** What a GiB more adds to the pause. */
function growthOf(all: SizeRuns[]): Verdict[] {
  const [small, large] = [at(all, 0), at(all, -1)];
  if (small === large) return [];
  const pauseMs = ({ runs }: SizeRuns) => medianOf(of(runs, 'rounds').map(seen)) / MS;
  const growth = (pauseMs(large) - pauseMs(small)) / ((large.mib - small.mib) / MIB_PER_GIB);
  return [
    {
      what: `pause, for each GiB from ${sizeName(small.mib)} to ${sizeName(large.mib)}`,
      target: `less than ${MOST_MS_PER_GIB} ms more`,
      value: `${fixed(growth, 2)} ms`,
      met: growth < MOST_MS_PER_GIB,
    },
  ];
}

function attachOf(samples: RoundsSample[]): string {
  return show(
    spreadBy(samples, ({ engine }) => engine?.attachStoppedUs ?? 0),
    2,
    MS,
  );
}

function seen({ seenUs }: RoundsSample): number {
  return seenUs;
}
