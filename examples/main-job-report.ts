/** What the main job prints. */
import type { DumpResult, RoundResult } from '@sluice/core';
import type { Comparison } from './compare.js';
import type { LoadWindow } from './load-generator.js';

const MEBI = 1024 * 1024;

/** What the steps of the main job found out. */
export interface Report {
  pid: number;
  before: LoadWindow;
  dump: DumpResult;
  during: LoadWindow;
  verifiedPieces: number;
  comparison: Comparison;
  after: LoadWindow;
}

export function printWorkload(
  pid: number,
  { values, bytes, clients }: { values: number; bytes: number; clients: number },
): void {
  print('Workload', [
    `key-value server, pid ${pid}: ${values} values, ${mib(bytes)}`,
    `${clients} clients read and write it all the time`,
  ]);
}

export function printDump(dump: DumpResult, before: LoadWindow, during: LoadWindow): void {
  const { bytes_written, pages_written, rounds, shards, capture, lanes, io } = dump;
  const { frozen_time, total_time } = dump;
  const writing_time = rounds.reduce((sum, round) => sum + round.memwrite_time, 0);
  print('Dump', [
    `${mib(bytes_written)} in ${pages_written} pages, each round written to ${shards} shards`,
    `captured by ${capture} in ${lanes} lanes, ${io} output`,
  ]);
  print('Rounds', rounds.map(describeRound));
  print('Freeze', [
    `${ms(frozen_time / 1000)} as Sluice measured it`,
    describeWindow(during, 'during the dump'),
    describeWindow(before, 'in the second before'),
  ]);
  const running = ms((total_time - frozen_time) / 1000);
  print('Time', [`${ms(total_time / 1000)} in all; the server ran for ${running} of it`]);
  print('Throughput', [
    `${rate(bytes_written, writing_time)} while writing, ${rate(bytes_written, total_time)} in all`,
  ]);
}

function describeRound(round: RoundResult, index: number): string {
  const { kind, pages_written, bytes_written, memwrite_time } = round;
  const [number, pages] = [`${index + 1}`.padStart(2), `${pages_written}`.padStart(7)];
  const [size, time] = [mib(bytes_written).padStart(9), ms(memwrite_time / 1000).padStart(8)];
  const when = kind === 'live' ? 'while the server ran' : 'as they were in the freeze';
  return `${number}: ${pages} pages, ${size}, ${time}, ${when}`;
}

function describeWindow({ requests, medianMs, longestMs }: LoadWindow, when: string): string {
  const slowest = `${ms(longestMs)} was the slowest of ${requests} requests ${when}`;
  return `${slowest}, the median ${ms(medianMs)}`;
}

export function printProof({ verifiedPieces, comparison, after }: Report): void {
  const { bytes, cpuNumbers } = comparison;
  print('Proof', [
    `${verifiedPieces} checksums of the image hold`,
    `${mib(bytes)} of a second image, of the stopped server, are as in its memory`,
    ...(cpuNumbers > 0 ? ['(but for CPU numbers of threads, which the kernel writes there)'] : []),
    `${after.requests} values were read from the server afterwards`,
  ]);
}

export function printNext(dir: string, pid: number, valueAddress: bigint): void {
  print('Image', [dir]);
  process.stdout.write(`
Try next:
  npx sluice inspect ${dir}
  npx sluice verify ${dir}
  npx sluice read ${dir} ${pid} 0x${valueAddress.toString(16)} 19     (a value of the server)
  npx sluice doctor
`);
}

function print(what: string, lines: readonly string[]): void {
  lines.forEach((line, i) => {
    process.stdout.write(`${(i === 0 ? what : '').padEnd(12)}${line}\n`);
  });
}

function mib(bytes: number): string {
  return `${(bytes / MEBI).toFixed(1)} MiB`;
}

function ms(milliseconds: number): string {
  return `${milliseconds.toFixed(1)} ms`;
}

function rate(bytes: number, microseconds: number): string {
  return `${Math.round(bytes / MEBI / (microseconds / 1e6))} MiB/s`;
}
