/** A core of a target that writes all the time: `sluice core --pid` beside gcore. */
import { type Bench, type CoreSample, NO_GCORE } from '../bench.js';
import type { BenchTarget } from '../bench_target.js';
import { type Figure, show, sizeName, type Verdict } from '../report.js';
import { at, interleave, of, ratioOf, spreadBy } from '../statistics.js';
import { atEachShare } from './consistency.js';

const COMPARED_MIB = 1024;
const LEAST_PAUSE = 500;
const MOST_TIME = 1;
const MS = 1000;
const MEBI = 1024 ** 2;

type Tool = 'sluice core' | 'gcore';

interface Sample extends CoreSample {
  /** Longest time for which the target stood still. */
  seenUs: number;
  /** What the engine says. */
  frozenUs: number | undefined;
}

export async function core(bench: Bench): Promise<Figure> {
  const sizes = bench.largeSizes();
  const mib = sizes.includes(COMPARED_MIB) ? COMPARED_MIB : at(sizes, 0);
  const tools: Tool[] = bench.hasGcore ? ['sluice core', 'gcore'] : ['sluice core'];
  const measured = await atEachShare(bench, mib, (target, share) =>
    interleave(bench.options.runs, tools, (tool, round) => {
      bench.tell(`core, ${sizeName(mib)}, ${share} %, run ${round + 1}: ${tool}`);
      return measure(bench, target, tool);
    }),
  );
  return {
    title: `A core of a target of ${sizeName(mib)} that writes all the time`,
    rows: [
      [
        'written a second',
        '',
        'pause seen, ms',
        'frozen_time, ms',
        'command, ms',
        'on the disk after, ms',
        'MiB there',
      ],
      ...measured.flatMap(({ share, runs }) =>
        tools.map((tool) => rowOf(`${share} %`, tool, of(runs, tool))),
      ),
    ],
    verdicts: bench.hasGcore
      ? measured.flatMap(({ share, runs }) =>
          verdictsOf(`${share} %`, of(runs, 'sluice core'), of(runs, 'gcore')),
        )
      : [],
    notes: [
      'written a second: random words, as many as that part of its pages',
      'command: from its start to its end, with starting Node or gdb; on the disk: with a sync after it',
      ...(bench.hasGcore ? [] : [NO_GCORE]),
    ],
    data: measured.map(({ share, runs }) => ({ share, runs: Object.fromEntries(runs) })),
  };
}

async function measure(bench: Bench, target: BenchTarget, tool: Tool): Promise<Sample> {
  let made: CoreSample | undefined;
  let frozenUs: number | undefined;
  const { stops } = await target.watch(async () => {
    if (tool === 'gcore') made = await bench.gcore(target);
    else {
      const { result, ...sample } = await bench.core(target);
      made = sample;
      frozenUs = result.dump?.frozen_time;
    }
  });
  if (made === undefined) throw new Error('no core was made');
  return { ...made, seenUs: Math.max(0, ...stops.map(({ us }) => us)), frozenUs };
}

function rowOf(share: string, tool: Tool, samples: Sample[]): string[] {
  const frozen = samples.flatMap(({ frozenUs }) => frozenUs ?? []);
  const ms = (value: (sample: Sample) => number, digits: number) =>
    show(spreadBy(samples, value), digits, MS);
  return [
    share,
    tool,
    ms(({ seenUs }) => seenUs, 2),
    frozen.length === 0
      ? ''
      : show(
          spreadBy(frozen, (us) => us),
          2,
          MS,
        ),
    ms(({ madeUs }) => madeUs, 0),
    ms(({ onDiskUs }) => onDiskUs, 0),
    show(
      spreadBy(samples, ({ bytes }) => bytes),
      0,
      MEBI,
    ),
  ];
}

function verdictsOf(share: string, sluice: Sample[], gcore: Sample[]): Verdict[] {
  const seen = ({ seenUs }: Sample) => seenUs;
  const onDisk = ({ onDiskUs }: Sample) => onDiskUs;
  const pauses = ratioOf(gcore.map(seen), sluice.map(seen));
  const times = ratioOf(sluice.map(onDisk), gcore.map(onDisk));
  return [
    {
      what: `${share}: pause of gcore`,
      target: `at least ${LEAST_PAUSE}`,
      value: `${show(pauses, 0)} times that of sluice core`,
      met: pauses.median >= LEAST_PAUSE,
    },
    {
      what: `${share}: time of sluice core until on the disk`,
      target: `at most ${MOST_TIME}`,
      value: `${show(times, 2)} times that of gcore`,
      met: times.median <= MOST_TIME,
    },
  ];
}
