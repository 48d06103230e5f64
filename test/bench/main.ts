/**
 * The benchmark: `npm run bench`, see docs/benchmarks.md. It measures and judges nothing: its exit
 * status is 0 whatever the figures, 1 if one could not be had, 2 for a wrong command line.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Bench, Skipped } from './bench.js';
import { after } from './figures/after.js';
import { checksum } from './figures/checksum.js';
import { consistency } from './figures/consistency.js';
import { core } from './figures/core.js';
import { cpu } from './figures/cpu.js';
import { lanes } from './figures/lanes.js';
import { memory } from './figures/memory.js';
import { pause } from './figures/pause.js';
import { rounds } from './figures/rounds.js';
import { throughput } from './figures/throughput.js';
import { lookAtMachine } from './machine.js';
import { type BenchOptions, type FigureName, parseOptions, USAGE, UsageError } from './options.js';
import { endAll } from './processes.js';
import { type Entry, type Figure, footOf, headOf, type Report, textOf } from './report.js';

const FIGURES: Record<FigureName, (bench: Bench) => Promise<Figure>> = {
  rounds,
  consistency,
  throughput,
  checksum,
  cpu,
  memory,
  lanes,
  pause,
  core,
  after,
};

const MS_PER_SECOND = 1000;
const FAILED = 1;
const WRONG_USAGE = 2;
const interrupted = new AbortController();

async function measure(name: FigureName, bench: Bench): Promise<Entry> {
  try {
    return { name, figure: await FIGURES[name](bench) };
  } catch (error) {
    if (interrupted.signal.aborted) throw error;
    const message = error instanceof Error ? error.message : String(error);
    return error instanceof Skipped ? { name, skipped: message } : { name, failed: message };
  }
}

async function run(options: BenchOptions): Promise<void> {
  const startMs = performance.now();
  const machine = lookAtMachine(options.dir);
  const scratch = await mkdtemp(join(options.dir, 'sluice-bench-'));
  try {
    const tell = tellWatcher();
    const out = options.json ? process.stderr : process.stdout;
    const print = (text: string) => {
      tell('');
      out.write(`${text}\n`);
    };
    const bench = new Bench(options, scratch, tell);
    const report: Report = {
      machine,
      options,
      defaults: await bench.defaults(),
      skippedSizes: [],
      warnings: [],
      entries: [],
      seconds: 0,
    };
    print(headOf(report));
    for (const name of options.figures) {
      const entry = await measure(name, bench);
      report.entries.push(entry);
      print(`\n${textOf(entry)}`);
    }
    report.skippedSizes = [...bench.skippedSizes].map(([mib, reason]) => ({ mib, reason }));
    report.warnings = [...bench.warnings];
    report.seconds = (performance.now() - startMs) / MS_PER_SECOND;
    print(`\n${footOf(report)}`);
    if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
    if (report.entries.some(({ failed }) => failed !== undefined)) process.exitCode = FAILED;
  } finally {
    await endAll();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** One line on a terminal that is overwritten again and again; nothing elsewhere. */
function tellWatcher(): (text: string) => void {
  if (process.stderr.isTTY !== true) return () => {};
  return (text) => process.stderr.write(`\r\x1b[K${text}`);
}

function interrupt(signal: NodeJS.Signals): void {
  interrupted.abort(new Error(`ended by ${signal}`));
  // What waits for one of them then fails, and the way out is that of any failure.
  void endAll();
}

process.once('SIGINT', interrupt);
process.once('SIGTERM', interrupt);

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) process.stdout.write(USAGE);
  else await run(options);
} catch (error) {
  const { reason } = interrupted.signal;
  const cause: unknown = interrupted.signal.aborted ? reason : error;
  process.stderr.write(`${cause instanceof Error ? cause.message : cause}\n`);
  if (error instanceof UsageError) process.stderr.write(USAGE);
  process.exitCode = error instanceof UsageError ? WRONG_USAGE : FAILED;
}
