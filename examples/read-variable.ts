/**
 * Reads a variable of a running C program out of its image. The program is dumped and ended before the
 * image is looked at: all that is needed is in the image and in the file of the program.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { dumpProcess, type Image, openImage } from '@sluice/core';

const SOURCE = fileURLToPath(new URL('../counter.c', import.meta.url));
const VISITORS = ['Ada', 'Grace', 'Barbara'];

/** Runs the program, lets it count, and dumps it. Resolves with its pid. */
async function runAndDump(program: string, dir: string): Promise<number> {
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const answers = createInterface({ input: child.stdout });
    for (const visitor of VISITORS) {
      child.stdin.write(`${visitor}\n`);
      const [visits] = await once(answers, 'line');
      console.log(`The program says: visit ${visits}`);
    }
    const pid = child.pid ?? 0;
    await dumpProcess(pid, { dir });
    return pid;
  } finally {
    child.kill();
  }
}

/** Where the program was in memory: its symbol, relative to where its file was mapped. */
function addressOf(symbol: string, program: string, image: Image): bigint {
  const line = execFileSync('nm', [program], { encoding: 'utf8' })
    .split('\n')
    .find((candidate) => candidate.endsWith(` ${symbol}`));
  if (line === undefined) throw new Error(`${program} has no symbol ${symbol}`);
  const mapped = image.processes[0]?.vmas.find(({ path }) => path === program);
  if (mapped === undefined) throw new Error(`${program} is not mapped`);
  return mapped.start - mapped.offset + BigInt(`0x${line.split(' ', 1)}`);
}

const scratch = await mkdtemp(join(tmpdir(), 'sluice-example-'));
try {
  // As the kernel names it, without symbolic links.
  const program = join(await realpath(scratch), 'counter');
  // A position-independent program: symbols are relative to the start of its first mapping.
  execFileSync('cc', ['-O1', '-fPIE', '-pie', '-o', program, SOURCE]);
  const dir = join(scratch, 'image');
  const pid = await runAndDump(program, dir);

  await using image = await openImage(dir);
  const address = addressOf('last_visitor', program, image);
  const bytes = Buffer.from(await image.read(pid, address, 40));
  const name = bytes.toString('utf8', 8, bytes.indexOf('\n', 8));
  console.log(
    `The image says:   visit ${bytes.readBigUInt64LE()}, by ${name}, at 0x${address.toString(16)}`,
  );
  if (bytes.readBigUInt64LE() !== BigInt(VISITORS.length) || name !== VISITORS.at(-1)) {
    throw new Error('That is not what the program had');
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}
