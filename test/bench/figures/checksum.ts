/** What checksums cost. */
import type { Bench } from '../bench.js';
import { type Figure, show, showPercent, sizeName } from '../report.js';
import type { DumpSample } from '../sample.js';
import { interleave, of, ratioOf, spreadBy } from '../statistics.js';

const MS = 1000;
/** Two medians of the same thing may differ by this. */
const EQUAL_WITHIN = 0.05;

const CASES = ['none', 'crc32c'] as const;

const frozenUs = ({ result }: DumpSample) => result.frozen_time;
const wholeUs = ({ dumpUs }: DumpSample) => dumpUs;
const checksumUs = ({ result }: DumpSample) => result.checksum_time;

export async function checksum(bench: Bench): Promise<Figure> {
  const mib = bench.middleSize();
  const runs = await bench.withTarget(mib, (target) =>
    interleave(bench.options.runs, CASES, (each, round) => {
      bench.tell(`checksum, ${sizeName(mib)}, run ${round + 1}: ${each}`);
      return bench.dump(target, { checksum: each, rounds: 0, consistency: 'copy' });
    }),
  );
  const none = of(runs, 'none');
  const ratio = (each: (typeof CASES)[number], value: (run: DumpSample) => number) =>
    ratioOf(of(runs, each).map(value), none.map(value));
  const frozen = ratio('crc32c', frozenUs);
  return {
    title: `Cost of checksums under one freeze, ${sizeName(mib)}`,
    rows: [
      ['checksum', 'freeze, ms', 'of none', 'whole dump, ms', 'of none', 'checksum, ms'],
      ...CASES.map((each) => [
        each,
        show(spreadBy(of(runs, each), frozenUs), 0, MS),
        showPercent(ratio(each, frozenUs)),
        show(spreadBy(of(runs, each), wholeUs), 0, MS),
        showPercent(ratio(each, wholeUs)),
        show(spreadBy(of(runs, each), checksumUs), 0, MS),
      ]),
    ],
    verdicts: [
      {
        what: 'freeze with crc32c',
        target: `that of none, within ${EQUAL_WITHIN * 100} %`,
        value: showPercent(frozen),
        met: Math.abs(frozen.median - 1) <= EQUAL_WITHIN,
      },
    ],
    notes: [],
    data: CASES.map((each) => ({ checksum: each, runs: of(runs, each) })),
  };
}
