/**
 * The main job, `npm start`: dumps a key-value server in rounds while clients use it, and proves that
 * the image of it is right. Exit status 0 if it is.
 *
 *   node main-job.js [DIR]     where images go; `out` in the repository if not given
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { dumpProcess, openImage, SluiceError } from '@sluice/core';
import { type Comparison, compare } from './compare.js';
import { VALUE_BYTES } from './kv-data.js';
import { printDump, printNext, printProof, printWorkload, type Report } from './main-job-report.js';
import { StoppedProcess } from './stopped-process.js';
import { Workload } from './workload.js';

const MEBI = 1024 * 1024;
const HELD_BYTES = 256 * MEBI;
const KEYS = HELD_BYTES / VALUE_BYTES;
const CLIENTS = 4;
const WARM_UP_MS = 500;
const WATCH_MS = 1000;

const OUT = resolve(process.argv[2] ?? fileURLToPath(new URL('../../out', import.meta.url)));
const IMAGE = join(OUT, 'main-job');
const SECOND_IMAGE = join(OUT, 'main-job-stopped');

async function runJob(signal: AbortSignal): Promise<Report> {
  await prepareOut();
  await using workload = await Workload.start({ keys: KEYS, clients: CLIENTS });
  const { pid } = workload;
  printWorkload(pid, { values: KEYS, bytes: HELD_BYTES, clients: CLIENTS });

  await workload.clients('resume');
  await sleep(WARM_UP_MS, undefined, { signal });
  await workload.clients('window');
  await sleep(WATCH_MS, undefined, { signal });
  const before = await workload.clients('window');

  const dump = await dumpProcess(pid, { dir: IMAGE, signal });
  const during = await workload.clients('window');
  printDump(dump, before, during);
  await workload.clients('pause');

  const verifiedPieces = await verify(IMAGE);
  const comparison = await compareStopped(pid, signal);
  const after = await workload.clients('sweep');
  return { pid, before, dump, during, verifiedPieces, comparison, after };
}

/** Leaves what a former run left, apart from its images. */
async function prepareOut(): Promise<void> {
  for (const dir of [IMAGE, SECOND_IMAGE]) await rm(dir, { recursive: true, force: true });
  await mkdir(OUT, { recursive: true });
  await writeFile(join(OUT, '.gitignore'), '*\n');
}

async function verify(dir: string): Promise<number> {
  await using image = await openImage(dir);
  return (await image.verify()).pieces;
}

/** The process of the image has moved on; so it is stopped, dumped again and compared. */
async function compareStopped(pid: number, signal: AbortSignal): Promise<Comparison> {
  using stopped = await StoppedProcess.stop(pid);
  try {
    await dumpProcess(pid, { dir: SECOND_IMAGE, signal });
    await using image = await openImage(SECOND_IMAGE);
    return await compare(image, stopped);
  } finally {
    await rm(SECOND_IMAGE, { recursive: true, force: true });
  }
}

/** Where a value of the server is in the image: found by what it looks like. */
async function findValue(pid: number): Promise<bigint> {
  await using image = await openImage(IMAGE);
  for (const { address, pages } of image.runs(pid)) {
    const read = await image.read(pid, address, pages * image.manifest.pageSizeBytes);
    const bytes = Buffer.from(read.buffer, read.byteOffset, read.byteLength);
    const offset = bytes.indexOf('key 1234 version');
    if (offset >= 0) return address + BigInt(offset);
  }
  throw new Error('No value of the server was found in the image');
}

/** What is wrong, if anything is. */
function failuresOf({ dump, comparison, before, during, after }: Report): string[] {
  const failures = comparison.differences.map(
    (difference) => `image and memory of the stopped server: ${difference}`,
  );
  for (const { wrong } of [before, during, after]) failures.push(...wrong);
  if (dump.bytes_written < HELD_BYTES) failures.push('the image holds less than the server');
  if (comparison.bytes < HELD_BYTES) failures.push('less was compared than the server holds');
  if (after.requests !== KEYS) failures.push(`${after.requests} values were read, not ${KEYS}`);
  return failures;
}

const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.once(name, () => stop.abort(new Error(`Received ${name}`)));
}
try {
  const report = await runJob(stop.signal);
  printProof(report);
  printNext(relative(process.cwd(), IMAGE) || '.', report.pid, await findValue(report.pid));
  const failures = failuresOf(report);
  if (failures.length > 0) throw new Error(`The image is wrong:\n${failures.join('\n')}`);
} catch (error) {
  process.exitCode = 1;
  const advice = SluiceError.isSluiceError(error) ? `${error.code}: ${error.advice}\n` : '';
  process.stderr.write(`\n${error instanceof Error ? error.message : error}\n${advice}`);
}
