/** What a dump adds to the memory of the process that makes it. */
import type { Bench } from '../bench.js';
import { type Figure, show, showPercent, sizeName, type Verdict } from '../report.js';
import type { DumpSample } from '../sample.js';
import { medianOf, ratioOf, spreadBy, spreadOf } from '../statistics.js';
import { BACKENDS, type Backend, type BackendRuns, backendRuns } from './backends.js';

const MEBI = 1024 ** 2;
const MOST_GROWTH_MIB = 96;
/** Growth of two sizes that differs by no more is the same: less than the garbage of a run. */
const SAME_WITHIN_MIB = 8;

const growthMib = ({ idleBytes, peakBytes }: DumpSample) => (peakBytes - idleBytes) / MEBI;
const idleMib = ({ idleBytes }: DumpSample) => idleBytes / MEBI;
const pinnedMib = ({ result }: DumpSample) => result.pinned_peak_bytes / MEBI;

export async function memory(bench: Bench): Promise<Figure> {
  const all = await backendRuns(bench);
  return {
    title: 'Memory of the dumper beyond idle, under one freeze, without checksums',
    rows: [
      ['', 'backend', 'growth, MiB', 'of smallest', 'idle, MiB', 'pinned in pipes, MiB'],
      ...all.flatMap((one) => BACKENDS.map((backend) => rowOf(one, backend, all))),
    ],
    verdicts: BACKENDS.flatMap((backend) => verdictsOf(all, backend)),
    notes: [
      'what is pinned in pipes with vmsplice are pages of the target, no memory of the dumper',
    ],
    data: all.map(({ mib, runs }) => ({
      mib,
      growthMib: Object.fromEntries(
        BACKENDS.map((backend) => [backend, runs[backend].map(growthMib)]),
      ),
    })),
  };
}

function rowOf({ mib, runs }: BackendRuns, backend: Backend, all: BackendRuns[]): string[] {
  const samples = runs[backend];
  const smallest = all[0]?.runs[backend] ?? samples;
  return [
    `dump of ${sizeName(mib)}`,
    backend,
    show(spreadBy(samples, growthMib), 1),
    showPercent(ratioOf(samples.map(growthMib), smallest.map(growthMib))),
    spreadBy(samples, idleMib).median.toFixed(1),
    show(spreadBy(samples, pinnedMib), 0),
  ];
}

function verdictsOf(all: BackendRuns[], backend: Backend): Verdict[] {
  const largest = Math.max(...all.flatMap(({ runs }) => runs[backend].map(growthMib)));
  const ofSizes = spreadOf(all.map(({ runs }) => medianOf(runs[backend].map(growthMib))));
  const difference = ofSizes.max - ofSizes.min;
  const verdict: Verdict = {
    what: `growth with ${backend}, largest of all runs`,
    target: `under ${MOST_GROWTH_MIB} MiB`,
    value: `${largest.toFixed(1)} MiB`,
    met: largest < MOST_GROWTH_MIB,
  };
  if (all.length < 2) return [verdict];
  return [
    verdict,
    {
      what: `growth with ${backend}, difference between sizes`,
      target: `at most ${SAME_WITHIN_MIB} MiB`,
      value: `${difference.toFixed(1)} MiB`,
      met: difference <= SAME_WITHIN_MIB,
    },
  ];
}
