/** What more lanes bring. */
import type { Bench } from '../bench.js';
import { type Figure, show, showPercent, sizeName } from '../report.js';
import type { DumpSample } from '../sample.js';
import { interleave, of, ratioOf, spreadBy } from '../statistics.js';

const LANES = [1, 2, 4] as const;
const MS = 1000;
const US = 1e6;
const GIBI = 1024 ** 3;

const frozenUs = ({ result }: DumpSample) => result.frozen_time;
const wholeUs = ({ dumpUs }: DumpSample) => dumpUs;
const captureRate = ({ result }: DumpSample) =>
  result.bytes_written / GIBI / (result.memwrite_time / US);
const wholeRate = ({ result, dumpUs }: DumpSample) => result.bytes_written / GIBI / (dumpUs / US);

export async function lanes(bench: Bench): Promise<Figure> {
  const mib = bench.middleSize();
  const runs = await bench.withTarget(mib, (target) =>
    interleave(bench.options.runs, LANES, (count, round) => {
      bench.tell(`lanes, ${sizeName(mib)}, run ${round + 1}: ${count}`);
      return bench.dump(target, { lanes: count, checksum: 'none', rounds: 0, consistency: 'copy' });
    }),
  );
  const one = of(runs, 1);
  const ofOne = (count: (typeof LANES)[number], value: (run: DumpSample) => number) =>
    showPercent(ratioOf(of(runs, count).map(value), one.map(value)));
  return {
    title: `Lanes, ${sizeName(mib)}, under one freeze, without checksums`,
    rows: [
      ['lanes', 'freeze, ms', 'of 1', 'capture, GiB/s', 'whole dump, GiB/s', 'time, of 1'],
      ...LANES.map((count) => {
        const samples = of(runs, count);
        return [
          String(count),
          show(spreadBy(samples, frozenUs), 0, MS),
          ofOne(count, frozenUs),
          show(spreadBy(samples, captureRate), 2),
          show(spreadBy(samples, wholeRate), 2),
          ofOne(count, wholeUs),
        ];
      }),
    ],
    verdicts: [],
    notes: [],
    data: LANES.map((count) => ({ lanes: count, runs: of(runs, count) })),
  };
}
