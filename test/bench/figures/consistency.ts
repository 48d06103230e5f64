/**
 * The pause of an exact snapshot of a target that goes on and writes all the time: by copying under
 * freeze, by a copy-on-write twin, and as Sluice chooses; beside the fork that Redis makes to save.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, type DumpChoice, NO_GCORE, Skipped } from '../bench.js';
import type { BenchTarget } from '../bench_target.js';
import { forkOfRedis } from '../redis.js';
import { type Figure, fixed, show, sizeName, type Verdict } from '../report.js';
import { clockUs } from '../sample.js';
import { at, interleave, medianOf, of, spreadBy } from '../statistics.js';
import { longest } from './rounds.js';

const PREFERRED_MIB = 1024;
const PAGES_PER_MIB = 256;
const MIB_PER_GIB = 1024;
const MS = 1000;
/** Parts of its pages that the target writes to in a second, percent. */
const SHARES = [1, 10, 50, 100] as const;
/** So long it writes before each dump. */
const UNDISTURBED_MS = 300;

const MOST_OF_BETTER = 1.2;
const MOST_MS_PER_GIB = 30;
const MOST_MS_AT_LEAST_SHARE = 2;

const DUMPS = {
  auto: {},
  copy: { consistency: 'copy' },
  twin: { consistency: 'twin' },
  'auto, no rounds': { rounds: 0 },
} satisfies Record<string, DumpChoice>;

type Way = keyof typeof DUMPS | 'gcore';

interface Sample {
  seenUs: number;
  frozenUs: number | undefined;
  consistency: string;
}

export async function consistency(bench: Bench): Promise<Figure> {
  const { tracker, trackerReason } = await bench.defaults();
  if (tracker === 'none') throw new Skipped(`no rounds here: ${trackerReason}`);
  const sizes = bench.roundsSizes();
  if (sizes.length === 0) throw new Skipped('no target of the sizes asked for fits here');
  const mib = sizes.includes(PREFERRED_MIB) ? PREFERRED_MIB : at(sizes, -1);
  const ways: Way[] = ['auto', 'copy', 'twin', 'auto, no rounds'];
  const measured = await atEachShare(bench, mib, (target, share) => {
    const all: Way[] = bench.hasGcore && share === SHARES[0] ? [...ways, 'gcore'] : ways;
    return interleave(bench.options.runs, all, (way, run) => {
      bench.tell(`consistency, ${share} %, run ${run + 1}: ${way}`);
      return sample(bench, target, way);
    });
  });
  bench.tell('consistency: Redis');
  const redis = await forkOfRedis(bench.scratch, mib);
  return {
    title: `Pause of a snapshot of ${sizeName(mib)} that goes on, as it sees it itself`,
    rows: [
      ['written a second', 'way', 'pause seen, ms', 'frozen_time, ms', 'made by'],
      ...measured.flatMap(({ share, runs }) =>
        [...runs].map(([way, samples]) => rowOf(`${share} %`, way, samples)),
      ),
      ...(redis === undefined
        ? []
        : [['', 'fork of Redis (latest_fork_usec)', fixed(redis.forkUs / MS, 2), '', '']]),
    ],
    verdicts: measured.flatMap(({ share, runs }) => verdictsOf(share, mib, runs)),
    notes: [
      'written a second: random words, as many as that part of its pages',
      redis === undefined
        ? 'redis-server and redis-cli are not installed: nothing to compare with'
        : `Redis ${redis.version} with ${sizeName(Math.round(redis.residentMib))} resident`,
      ...(bench.hasGcore ? [] : [NO_GCORE]),
    ],
    data: measured.map(({ share, runs }) => ({ share, runs: Object.fromEntries(runs) })),
  };
}

/** Runs of a target while it writes: as many random words a second as each share of its pages. */
export async function atEachShare<Runs>(
  bench: Bench,
  mib: number,
  measure: (target: BenchTarget, share: number) => Promise<Runs>,
): Promise<{ share: number; runs: Runs }[]> {
  return await bench.withTarget(mib, async (target) => {
    const measured: { share: number; runs: Runs }[] = [];
    for (const share of SHARES) {
      await target.write((mib * PAGES_PER_MIB * share) / 100);
      measured.push({ share, runs: await measure(target, share) });
      await target.still();
    }
    return measured;
  });
}

async function sample(bench: Bench, target: BenchTarget, way: Way): Promise<Sample> {
  let made: Omit<Sample, 'seenUs'> = { frozenUs: undefined, consistency: '' };
  let beganUs = 0;
  const { stops } = await target.watch(async () => {
    await sleep(UNDISTURBED_MS);
    beganUs = clockUs();
    if (way === 'gcore') {
      await bench.gcore(target);
      return;
    }
    const { result } = await bench.dump(target, { checksum: 'none', ...DUMPS[way] });
    made = { frozenUs: result.frozen_time, consistency: result.consistency };
  });
  return { seenUs: longest(stops.filter(({ fromUs }) => fromUs > beganUs)).seenUs, ...made };
}

function rowOf(share: string, way: Way, samples: Sample[]): string[] {
  const frozen = samples.flatMap(({ frozenUs }) => frozenUs ?? []);
  return [
    share,
    way,
    show(spreadBy(samples, seen), 2, MS),
    frozen.length === 0
      ? ''
      : show(
          spreadBy(frozen, (us) => us),
          2,
          MS,
        ),
    [...new Set(samples.map((each) => each.consistency))].join(', '),
  ];
}

function verdictsOf(share: number, mib: number, runs: ReadonlyMap<Way, Sample[]>): Verdict[] {
  const medianMs = (way: Way) => medianOf(of(runs, way).map(seen)) / MS;
  const autoMs = medianMs('auto');
  const betterMs = Math.min(medianMs('copy'), medianMs('twin'));
  const mostMs =
    share === SHARES[0] ? MOST_MS_AT_LEAST_SHARE : (MOST_MS_PER_GIB * mib) / MIB_PER_GIB;
  return [
    {
      what: `pause of auto at ${share} %`,
      target: `at most ${MOST_OF_BETTER} times the shorter of copy and twin`,
      value: `${fixed(autoMs / betterMs, 2)} times`,
      met: autoMs <= MOST_OF_BETTER * betterMs,
    },
    {
      what: `pause of auto at ${share} %`,
      target: `less than ${fixed(mostMs, 1)} ms`,
      value: `${fixed(autoMs, 2)} ms`,
      met: autoMs < mostMs,
    },
  ];
}

function seen({ seenUs }: Sample): number {
  return seenUs;
}
