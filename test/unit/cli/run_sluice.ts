/** Runs the command as a user does: as a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

export const SLUICE = fileURLToPath(
  new URL('../../../packages/cli/bin/sluice.js', import.meta.url),
);

export interface Outcome {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

export function startSluice(args: readonly string[], cwd?: string): ChildProcess {
  return spawn(process.execPath, [SLUICE, ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Waits for the end of a process and takes what it says until then. */
export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const [[status, signal], stdout, stderr] = await Promise.all([
    once(child, 'close'),
    bytesOf(child.stdout),
    bytesOf(child.stderr),
  ]);
  return { status, signal, stdout, stderr: stderr.toString() };
}

export function sluice(...args: readonly string[]): Promise<Outcome> {
  return outcomeOf(startSluice(args));
}

async function bytesOf(stream: Readable | null): Promise<Buffer> {
  const parts: Buffer[] = [];
  stream?.on('data', (part: Buffer) => parts.push(part));
  // A stream that was destroyed closes without an end.
  if (stream && !stream.closed) await once(stream, 'close');
  return Buffer.concat(parts);
}
