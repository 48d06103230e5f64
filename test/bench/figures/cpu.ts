/** CPU time of a dump, wherever it is spent. */
import type { Bench } from '../bench.js';
import { type Figure, fixed, show, showPercent, sizeName, type Verdict } from '../report.js';
import { type DumpSample, microseconds } from '../sample.js';
import { at, ratioOf, type Spread, spreadOf } from '../statistics.js';
import { BACKENDS, type Backend, type BackendRuns, backendRuns } from './backends.js';

const MOST_RATIO = 1 / 3;
const MIB_PER_GIB = 1024;
const US = 1e6;

/** Where the time goes. */
const PARTS = {
  dumper: ({ threadsCpu }: DumpSample) => microseconds(threadsCpu),
  tracers: ({ tracersCpu }: DumpSample) => microseconds(tracersCpu),
  helpers: ({ helpersCpu }: DumpSample) => microseconds(helpersCpu),
  target: ({ targetCpu }: DumpSample) => microseconds(targetCpu),
};
type Part = keyof typeof PARTS;
const PART_NAMES = Object.keys(PARTS) as Part[];

/** CPU seconds, one value per run. */
interface Costs {
  whole: number[];
  parts: Record<Part, number[]>;
}

export async function cpu(bench: Bench): Promise<Figure> {
  const all = await backendRuns(bench);
  const wholes = all.map(({ mib, runs }) => ({
    what: `dump of ${sizeName(mib)}`,
    costs: bothOf((backend) => costsOf(runs[backend])),
  }));
  const slopes = all.length > 1 ? [slopesBetween(at(all, -2), at(all, -1))] : [];
  const blocks = [...wholes, ...slopes.flatMap(({ perGib, fixed }) => [perGib, fixed])];
  return {
    title: 'CPU seconds of a dump under one freeze, without checksums',
    rows: [['', 'backend', 'CPU s', ...PART_NAMES, 'of read'], ...blocks.flatMap(rowsOf)],
    verdicts: slopes.map(({ perGib }) => verdictOf(perGib)),
    notes: [
      'dumper: its threads; tracers: its ptrace tasks, counted in steps of 0.01 s;',
      'helpers: tasks in the target that make the vmsplice calls; target: the process itself',
      ...(slopes.length === 0 ? ['one size only: the cost per GiB takes two'] : []),
    ],
    data: { blocks, runs: all },
  };
}

interface Block {
  what: string;
  costs: Record<Backend, Costs>;
}

function bothOf<Value>(value: (backend: Backend) => Value): Record<Backend, Value> {
  return { vmsplice: value('vmsplice'), read: value('read') };
}

function costsFrom(valuesOf: (part: Part) => number[]): Costs {
  const parts = {
    dumper: valuesOf('dumper'),
    tracers: valuesOf('tracers'),
    helpers: valuesOf('helpers'),
    target: valuesOf('target'),
  };
  const whole = parts.dumper.map((_, run) =>
    PART_NAMES.reduce((sum, part) => sum + at(parts[part], run), 0),
  );
  return { whole, parts };
}

function costsOf(runs: DumpSample[]): Costs {
  return costsFrom((part) => runs.map((run) => PARTS[part](run) / US));
}

/** What a GiB more costs, and what is left for a dump of nothing. */
function slopesBetween(small: BackendRuns, large: BackendRuns): { perGib: Block; fixed: Block } {
  const gib = (mib: number) => mib / MIB_PER_GIB;
  const perGib = bothOf((backend) => {
    const from = costsOf(small.runs[backend]).parts;
    const to = costsOf(large.runs[backend]).parts;
    return costsFrom((part) =>
      to[part].map(
        (seconds, run) => (seconds - at(from[part], run)) / (gib(large.mib) - gib(small.mib)),
      ),
    );
  });
  const fixed = bothOf((backend) => {
    const from = costsOf(small.runs[backend]).parts;
    return costsFrom((part) =>
      from[part].map(
        (seconds, run) => seconds - at(perGib[backend].parts[part], run) * gib(small.mib),
      ),
    );
  });
  const between = `${sizeName(small.mib)} to ${sizeName(large.mib)}`;
  return {
    perGib: { what: `each GiB, from ${between}`, costs: perGib },
    fixed: { what: 'start-up, what is left', costs: fixed },
  };
}

function rowsOf({ what, costs }: Block): string[][] {
  const { read } = costs;
  return BACKENDS.map((backend) => {
    const { whole, parts } = costs[backend];
    return [
      what,
      backend,
      show(spreadOf(whole), 3),
      ...PART_NAMES.map((part) => fixed(spreadOf(parts[part]).median, 3)),
      showPercent(ratioOf(whole, read.whole)),
    ];
  });
}

function verdictOf({ costs }: Block): Verdict {
  const ratio: Spread = ratioOf(costs.vmsplice.whole, costs.read.whole);
  return {
    what: 'CPU of vmsplice, for each GiB',
    target: 'at most a third of read',
    value: showPercent(ratio),
    met: ratio.median <= MOST_RATIO,
  };
}
