/**
 * Takes a program back ten times to an instant in the middle of its work, all its threads with it, and
 * lets it go on each time: it must come to the same result.
 */
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { dumpProcess, openImage, restoreInto } from '@sluice/core';

const SOURCE = fileURLToPath(new URL('../estimate.c', import.meta.url));
const TIMES = 10;

async function rollBack(
  child: ChildProcessByStdio<Writable, Readable, null>,
  dir: string,
): Promise<void> {
  const pid = child.pid ?? 0;
  const lines = createInterface({ input: child.stdout });
  await once(lines, 'line');
  await dumpProcess(pid, { dir });

  // It answers when it has come to its result. What it has read of its input stays read.
  const ask = async (): Promise<{ progress: string; result: string }> => {
    child.stdin.write('\n');
    const [line] = (await once(lines, 'line')) as [string];
    const [progress = '', result = ''] = line.split(' ');
    return { progress, result };
  };
  const first = await ask();
  console.log(`Undisturbed:     pi is about ${first.result}`);

  await using image = await openImage(dir);
  for (let time = 1; time <= TIMES; time++) {
    const { frozen_time } = await restoreInto(pid, image, { force: true });
    const { progress, result } = await ask();
    const froze = `${(frozen_time / 1000).toFixed(1)} ms`;
    console.log(
      `Rolled back ${time}:${time < 10 ? ' ' : ''}  pi is about ${result}, from ${progress} % on (${froze})`,
    );
    if (result !== first.result) throw new Error('That is another result');
  }
}

const scratch = await mkdtemp(join(tmpdir(), 'sluice-example-'));
try {
  const program = join(scratch, 'estimate');
  execFileSync('cc', ['-O2', '-pthread', '-o', program, SOURCE]);
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    await rollBack(child, join(scratch, 'image'));
  } finally {
    child.kill();
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}
