/**
 * Dumps a process and looks at the image.
 *
 *   node dump-pid.js [PID [DIR]]
 *
 * Without a pid it starts a small process of its own. Without a directory the image goes away again.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openImage, openTarget } from '@sluice/core';

async function dumpAndLook(pid: number, dir: string): Promise<void> {
  await using target = await openTarget(pid);
  console.log(`Dumping process ${pid} (${target.name}) to ${dir}`);

  // A dump can be awaited, or iterated for its progress first. An AbortSignal ends it early.
  const run = target.dump({ dir, signal: AbortSignal.timeout(60_000) });
  for await (const { phase, round, elapsedMs } of run) {
    const which = round === null ? '' : `, ${round.kind} round ${round.number}`;
    console.log(`  ${elapsedMs} ms: ${phase}${which}`);
  }
  const { pages_written, rounds, frozen_time, total_time } = await run;
  console.log(`${pages_written} pages in ${rounds.length} rounds`);
  console.log(`frozen ${frozen_time} us of ${total_time} us`);

  await using image = await openImage(dir);
  const { pieces } = await image.verify();
  console.log(`${pieces} checksums hold`);
  for (const { vmas, threads } of image.processes) {
    console.log(`${vmas.length} mappings, threads ${threads.map(({ tid }) => tid).join(', ')}`);
  }
}

/** A process to dump; it ends with us. */
async function startChild(): Promise<ChildProcess> {
  const script = 'process.stdout.write("ready"); process.stdin.resume()';
  const child = spawn(process.execPath, ['-e', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  if (child.stdout !== null) await once(child.stdout, 'data');
  return child;
}

const [pidArgument, dirArgument] = process.argv.slice(2);
const child = pidArgument === undefined ? await startChild() : undefined;
const scratch = await mkdtemp(join(tmpdir(), 'sluice-example-'));
try {
  await dumpAndLook(Number(pidArgument ?? child?.pid), dirArgument ?? join(scratch, 'image'));
} finally {
  child?.kill();
  await rm(scratch, { recursive: true, force: true });
}
