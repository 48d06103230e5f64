/** What `npm run bench -- ...` takes. */
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

export const FIGURE_NAMES = [
  'rounds',
  'consistency',
  'throughput',
  'checksum',
  'cpu',
  'memory',
  'lanes',
  'pause',
  'core',
  'after',
] as const;
export type FigureName = (typeof FIGURE_NAMES)[number];

export interface BenchOptions {
  /** Sizes of targets in MiB, ascending. */
  sizesMib: number[];
  /** The same for the figure `rounds`, which needs a larger one. */
  roundsSizesMib: number[];
  /** Interleaved runs of everything. */
  runs: number;
  /** Where images and raw files are written, in a directory of their own. */
  dir: string;
  figures: FigureName[];
  json: boolean;
  quick: boolean;
}

export const USAGE = `usage: npm run bench -- [options]

  --quick           small targets, two runs: shows that it works, its figures say little
  --sizes A,B,...   sizes of targets in MiB (default 256,1024,4096, for rounds 8192 too; with --quick
                    64,256)
  --runs N          runs of everything, 1 to 99 (default 5; with --quick 2)
  --dir DIR         where to write (default: the directory for temporary files)
  --only A,B,...    some of: ${FIGURE_NAMES.join(', ')}
  --json            one JSON object on standard output, tables on standard error
  --help            this text
`;

/** A wrong command line; the message is for people. */
export class UsageError extends Error {}

/**
 * Reads the command line.
 *
 * @returns `undefined` if only help was asked for.
 * @throws UsageError
 */
export function parseOptions(args: string[]): BenchOptions | undefined {
  const values = parse(args);
  if (values.help === true) return undefined;
  const quick = values.quick === true;
  return {
    sizesMib: sizesOf(values.sizes ?? (quick ? '64,256' : '256,1024,4096')),
    roundsSizesMib: sizesOf(values.sizes ?? (quick ? '64,256' : '256,1024,4096,8192')),
    runs: whole('--runs', values.runs ?? (quick ? '2' : '5'), 1, 99),
    dir: resolve(values.dir ?? tmpdir()),
    figures: figuresOf(values.only),
    json: values.json === true,
    quick,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        quick: { type: 'boolean' },
        sizes: { type: 'string' },
        runs: { type: 'string' },
        dir: { type: 'string' },
        only: { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function whole(name: string, text: string, least: number, most: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new UsageError(`${name}: expected a whole number from ${least} to ${most}, got "${text}"`);
}

function sizesOf(list: string): number[] {
  const sizes = list.split(',').map((text) => whole('--sizes', text.trim(), 1, 1024 * 1024));
  return [...new Set(sizes)].sort((a, b) => a - b);
}

function figuresOf(list: string | undefined): FigureName[] {
  if (list === undefined) return [...FIGURE_NAMES];
  const names = list.split(',').map((text) => text.trim());
  const unknown = names.find((name) => !FIGURE_NAMES.some((known) => known === name));
  if (unknown !== undefined) {
    const known = FIGURE_NAMES.join(', ');
    throw new UsageError(`--only: expected some of ${known}, got "${unknown}"`);
  }
  return FIGURE_NAMES.filter((known) => names.includes(known));
}
