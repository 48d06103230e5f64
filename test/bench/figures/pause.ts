/** The pause that the target sees, beside that of gcore and beside what the engine says. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, NO_GCORE } from '../bench.js';
import type { BenchTarget } from '../bench_target.js';
import { type Figure, show, showPercent, sizeName } from '../report.js';
import { interleave, of, ratioOf, spreadBy, spreadOf } from '../statistics.js';

const MS = 1000;
/** About as long as a dump. */
const NOTHING_MS = 1000;

interface PauseSample {
  /** Longest pause that the target saw. */
  seenUs: number;
  /** What the engine says; the others say nothing. */
  frozenUs: number | null;
}

type Tool = 'Sluice' | 'gcore' | 'nothing';

export async function pause(bench: Bench): Promise<Figure> {
  const mib = bench.middleSize();
  const { hasGcore } = bench;
  const tools: Tool[] = hasGcore ? ['Sluice', 'gcore', 'nothing'] : ['Sluice', 'nothing'];
  const runs = await bench.withTarget(mib, (target) =>
    interleave(bench.options.runs, tools, (tool, round) => {
      bench.tell(`pause, ${sizeName(mib)}, run ${round + 1}: ${tool}`);
      return USES[tool](bench, target);
    }),
  );
  const sluice = of(runs, 'Sluice');
  const seen = ({ seenUs }: PauseSample) => seenUs;
  const frozen = ({ frozenUs }: PauseSample) => frozenUs ?? 0;
  return {
    title: `Pause of a dump under one freeze, as the target sees it, ${sizeName(mib)}`,
    rows: [
      ['', 'pause seen, ms', 'of Sluice', 'frozen_time, ms', 'seen / frozen_time'],
      ...tools.map((tool) => {
        const samples = of(runs, tool);
        const row = [
          tool,
          show(spreadBy(samples, seen), 1, MS),
          showPercent(ratioOf(samples.map(seen), sluice.map(seen))),
        ];
        if (tool !== 'Sluice') return [...row, '', ''];
        const agreement = ratioOf(samples.map(seen), samples.map(frozen));
        return [...row, show(spreadBy(samples, frozen), 1, MS), show(agreement, 3)];
      }),
    ],
    verdicts: [],
    notes: [
      'nothing: no dump at all; what the target then sees is what others take of the CPUs',
      ...(hasGcore ? [] : [NO_GCORE]),
      `pause seen less frozen_time, ms: ${show(
        spreadOf(sluice.map((run) => (seen(run) - frozen(run)) / MS)),
        2,
      )}`,
    ],
    data: tools.map((tool) => ({ tool, runs: of(runs, tool) })),
  };
}

const USES: Record<Tool, (bench: Bench, target: BenchTarget) => Promise<PauseSample>> = {
  Sluice: withSluice,
  gcore: withGcore,
  nothing: withNothing,
};

async function withSluice(bench: Bench, target: BenchTarget): Promise<PauseSample> {
  let frozenUs = 0;
  const { gapUs } = await target.watch(async () => {
    const { result } = await bench.dump(target, {
      checksum: 'none',
      rounds: 0,
      consistency: 'copy',
    });
    frozenUs = result.frozen_time;
  });
  return { seenUs: gapUs, frozenUs };
}

async function withGcore(bench: Bench, target: BenchTarget): Promise<PauseSample> {
  const { gapUs } = await target.watch(async () => void (await bench.gcore(target)));
  return { seenUs: gapUs, frozenUs: null };
}

async function withNothing(_bench: Bench, target: BenchTarget): Promise<PauseSample> {
  const { gapUs } = await target.watch(() => sleep(NOTHING_MS));
  return { seenUs: gapUs, frozenUs: null };
}
