/** Figures to text. */
import type { Defaults } from './bench.js';
import type { Machine } from './machine.js';
import type { BenchOptions, FigureName } from './options.js';
import type { Spread } from './statistics.js';

/** A figure held against what it should be. */
export interface Verdict {
  what: string;
  /** What it should be, like `at least 85 %`. */
  target: string;
  /** What it is. */
  value: string;
  met: boolean;
}

export interface Figure {
  title: string;
  /** Table; the first row is its head. */
  rows: string[][];
  verdicts: Verdict[];
  /** Below the table: what a reader must know to understand it. */
  notes: string[];
  /** Plain numbers for programs. */
  data: unknown;
}

/** One figure of the run; `skipped` or `failed` instead of it if there is none. */
export interface Entry {
  name: FigureName;
  figure?: Figure;
  skipped?: string;
  failed?: string;
}

export interface Report {
  machine: Machine;
  options: BenchOptions;
  defaults: Defaults;
  skippedSizes: { mib: number; reason: string }[];
  /** What the dumps warned of. */
  warnings: string[];
  entries: Entry[];
  seconds: number;
}

const GIBI = 1024 ** 3;
const QUIET_LOAD = 0.3;

export function headOf({ machine, options, defaults }: Report): string {
  const { kernel, node, cpu, cpus, memoryBytes, fileSystem, load } = machine;
  const memory = (memoryBytes / GIBI).toFixed(0);
  const reasons = [
    ...(options.quick ? ['small targets and few runs (--quick)'] : []),
    ...(fileSystem === 'tmpfs' ? ['writes go to memory, choose a disk with --dir'] : []),
    ...(load > QUIET_LOAD ? [`load was ${load.toFixed(1)} before the start`] : []),
  ];
  return [
    `Linux ${kernel}, Node ${node}, ${cpus} CPUs (${cpu}), ${memory} GiB of memory, ${fileSystem}`,
    `Default here: ${defaults.capture}, ${defaults.tracker}, ${defaults.io}, ${defaults.lanes} lanes, ` +
      `${defaults.shards} shards. Medians of ${options.runs} interleaved runs, (min–max).`,
    ...(reasons.length > 0 ? [`Not to be quoted: ${reasons.join('; ')}.`] : []),
  ].join('\n');
}

export function textOf({ name, figure, skipped, failed }: Entry): string {
  if (figure === undefined) {
    const why = skipped === undefined ? `failed: ${failed}` : `skipped: ${skipped}`;
    return `${name}\n  ${why}`;
  }
  const { title, rows, verdicts, notes } = figure;
  return [
    title,
    ...tableOf(rows).map((line) => `  ${line}`),
    ...verdicts.map(({ what, target, value, met }) => {
      return `  ${met ? 'met    ' : 'NOT MET'}  ${what}: ${value}; target: ${target}`;
    }),
    ...notes.map((note) => `  ${note}`),
  ].join('\n');
}

export function footOf({ entries, skippedSizes, warnings, seconds }: Report): string {
  const verdicts = entries.flatMap(({ figure }) => figure?.verdicts ?? []);
  const met = verdicts.filter((verdict) => verdict.met).length;
  return [
    ...skippedSizes.map(({ mib, reason }) => `skipped ${mib} MiB: ${reason}`),
    ...warnings.map((warning) => `warning of a dump: ${warning}`),
    `${met} of ${verdicts.length} targets met, ${seconds.toFixed(0)} s`,
  ].join('\n');
}

function tableOf(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd(),
  );
}

/** Never `-0.00`. */
export function fixed(value: number, digits: number): string {
  return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, '');
}

/** `3.14 (3.02–3.20)`, in units of `unit`. */
export function show({ median, min, max }: Spread, digits: number, unit = 1): string {
  const [middle, low, high] = [median, min, max].map((value) => fixed(value / unit, digits));
  return low === high ? `${middle}` : `${middle} (${low}–${high})`;
}

/** `85 % (83–88)` */
export function showPercent({ median, min, max }: Spread): string {
  const [middle, low, high] = [median, min, max].map((value) => fixed(value * 100, 0));
  return low === high ? `${middle} %` : `${middle} % (${low}–${high})`;
}

export function sizeName(mib: number): string {
  return mib % 1024 === 0 ? `${mib / 1024} GiB` : `${mib} MiB`;
}
