/** How fast a target is once a session is over, beside how fast it was before. */
import type { Bench, DumpChoice } from '../bench.js';
import type { BenchTarget, Work } from '../bench_target.js';
import { type Figure, show, showPercent, sizeName } from '../report.js';
import { interleave, of, type Spread, spreadOf } from '../statistics.js';

const SESSIONS = {
  nothing: undefined,
  rounds: {},
  'one freeze': { rounds: 0, consistency: 'copy' },
  twin: { consistency: 'twin' },
} as const satisfies Record<string, DumpChoice | undefined>;
type Session = keyof typeof SESSIONS;
const NAMES = Object.keys(SESSIONS) as Session[];

const PAGES_PER_MIB = 256;

const PARTS: readonly [keyof Work, string][] = [
  ['firstNs', 'first write to each page'],
  ['writeNs', 'writes after that'],
  ['callNs', 'system calls'],
  ['computeNs', 'computing'],
];

interface Pair {
  before: Work;
  after: Work;
}

export async function after(bench: Bench): Promise<Figure> {
  const mib = bench.middleSize();
  const runs = await bench.withTarget(mib, (target) =>
    interleave(bench.options.runs, NAMES, (session, round) => {
      bench.tell(`after, ${sizeName(mib)}, run ${round + 1}: ${session}`);
      return around(bench, target, session);
    }),
  );
  return {
    title: `Speed of the target after a session, of that before it, ${sizeName(mib)}`,
    rows: [
      ['session', ...PARTS.map(([, what]) => what), 'more for a first write, ns'],
      ...NAMES.map((session) => [
        session,
        ...PARTS.map(([part]) => showPercent(speedOf(of(runs, session), part))),
        show(spreadOf(of(runs, session).map((pair) => moreForEachPage(pair, mib))), 0),
      ]),
    ],
    verdicts: [],
    notes: [
      'by CPU time, so that what others take of the CPUs is not in it; 100 %: as fast as before',
      'nothing: no session between the two, which tells how exact the others are',
    ],
    data: NAMES.map((session) => ({ session, runs: of(runs, session) })),
  };
}

async function around(bench: Bench, target: BenchTarget, session: Session): Promise<Pair> {
  // What the session before left for the first write is over then.
  await target.work();
  const before = await target.work();
  const choice: DumpChoice | undefined = SESSIONS[session];
  if (choice !== undefined) await bench.dump(target, { ...choice, checksum: 'none' });
  return { before, after: await target.work() };
}

function speedOf(pairs: readonly Pair[], part: keyof Work): Spread {
  return spreadOf(pairs.map((pair) => pair.before[part] / pair.after[part]));
}

/** Nanoseconds. */
function moreForEachPage({ before, after }: Pair, mib: number): number {
  return (after.firstNs - before.firstNs) / (mib * PAGES_PER_MIB);
}
