/**
 * One dump in a process of its own, so that no measurement inherits the memory or the warm code of
 * another. Prints one line of JSON.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { openTarget } from '@sluice/core';
import { withFaults } from '../harness/faults.js';
import { type CpuTime, clockUs, cpuBetween, type DumpAnswer, type DumpRequest } from './sample.js';

const SETTLE_MS = 200;
/** Clock ticks of proc_pid_stat(5): 100 a second on every x86-64. */
const US_PER_TICK = 10_000;
/** Positions of cutime and cstime after the name, which is field 2 of proc_pid_stat(5). */
const CUTIME_INDEX = 16 - 3;
const CSTIME_INDEX = 17 - 3;
/** Makes VmHWM start anew (clear_refs in proc_pid_clear_refs(5)). */
const RESET_PEAK = '5';

function ownCpu(): CpuTime {
  const { user, system } = process.cpuUsage();
  return { userUs: user, systemUs: system };
}

function childrenCpu(): CpuTime {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const microseconds = (index: number) => Number(fields[index]) * US_PER_TICK;
  return { userUs: microseconds(CUTIME_INDEX), systemUs: microseconds(CSTIME_INDEX) };
}

function statusBytes(key: 'VmRSS' | 'VmHWM'): number {
  const found = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(
    readFileSync('/proc/self/status', 'utf8'),
  );
  if (found === null) throw new Error(`/proc/self/status has no ${key}`);
  return Number(found[1]) * 1024;
}

async function dumpOnce(
  { pid, options, faults = [] }: DumpRequest,
  signal: AbortSignal,
): Promise<DumpAnswer> {
  await sleep(SETTLE_MS);
  writeFileSync('/proc/self/clear_refs', RESET_PEAK);
  const idleBytes = statusBytes('VmRSS');
  const threads = ownCpu();
  const tracers = childrenCpu();

  const target = await openTarget(pid);
  const startUs = clockUs();
  const run = () => target.dump({ ...options, signal }).finally();
  const { dir, left_out, held, ...result } = await withFaults(faults, run);
  const dumpUs = clockUs() - startUs;
  await target.close();

  return {
    result,
    startUs,
    dumpUs,
    threadsCpu: cpuBetween(threads, ownCpu()),
    tracersCpu: cpuBetween(tracers, childrenCpu()),
    idleBytes,
    peakBytes: statusBytes('VmHWM'),
  };
}

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => interrupted.abort());
}
// Its end is that of the benchmark.
process.stdin.on('end', () => interrupted.abort()).resume();
try {
  const request = JSON.parse(process.argv[2] ?? '') as DumpRequest;
  const answer = await dumpOnce(request, interrupted.signal);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
process.stdin.destroy();
