/**
 * Makes a core of a key-value server while clients use it, and shows that they do not notice.
 *
 *   node core-of-server.js [FILE]
 *
 * Without a file the core goes away again.
 */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { coreProcess } from '@sluice/core';
import { VALUE_BYTES } from './kv-data.js';
import type { LoadWindow } from './load-generator.js';
import { Workload } from './workload.js';

const MEBI = 1024 * 1024;
const KEYS = (256 * MEBI) / VALUE_BYTES;
const CLIENTS = 4;

async function coreUnderLoad(out: string): Promise<void> {
  await using workload = await Workload.start({ keys: KEYS, clients: CLIENTS });
  const { pid } = workload;
  console.log(`Server       pid ${pid}, ${KEYS} values, ${CLIENTS} clients`);
  await workload.clients('resume');
  await sleep(500);
  await workload.clients('window');
  await sleep(1000);
  const before = await workload.clients('window');

  const { threads, core_bytes, bytes_written, dump } = await coreProcess(pid, { out });

  const during = await workload.clients('window');
  await workload.clients('pause');
  const after = await workload.clients('sweep');
  const { blocks } = await stat(out);
  console.log(`Core         ${threads} threads, ${mib(bytes_written)} of memory in ${out}`);
  console.log(`             ${mib(core_bytes)} long, ${mib(blocks * 512)} on the disk`);
  console.log(`Freeze       ${((dump?.frozen_time ?? 0) / 1000).toFixed(1)} ms`);
  console.log(`Clients      ${describe(before)} in the second before`);
  console.log(`             ${describe(during)} while the core was made`);
  console.log(`Afterwards   ${after.requests} values were read from the server, all right`);
  const wrong = [before, during, after].flatMap((window) => window.wrong);
  if (wrong.length > 0) throw new Error(`The clients noticed: ${wrong.join('; ')}`);
  if (after.requests !== KEYS) throw new Error(`${after.requests} values were read, not ${KEYS}`);
}

function describe({ requests, medianMs, longestMs }: LoadWindow): string {
  const [median, longest] = [medianMs.toFixed(1), longestMs.toFixed(1)];
  return `${requests} requests, the median ${median} ms, the slowest ${longest} ms`;
}

function mib(bytes: number): string {
  return `${(bytes / MEBI).toFixed(1)} MiB`;
}

const [file] = process.argv.slice(2);
const scratch = await mkdtemp(join(tmpdir(), 'sluice-example-'));
try {
  const out = file ?? join(scratch, 'core');
  await coreUnderLoad(out);
  if (file !== undefined) console.log(`\nTry next:\n  gdb ${process.execPath} ${file}`);
} finally {
  await rm(scratch, { recursive: true, force: true });
}
