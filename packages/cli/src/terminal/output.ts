/** Standard output and standard error of the command. */
import { SluiceError } from '@sluice/core';

/** Nobody reads standard output any more. */
export class OutputClosed extends Error {
  override readonly name = 'OutputClosed';
}

/** To be called once at the start: errors of the streams arrive with each write, and nowhere else. */
export function watchStreams(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
}

/**
 * Resolves when the bytes were taken, so that a slow reader slows us down.
 *
 * @throws `OutputClosed`; `SluiceError` with `ERR_SLUICE_IO` or `ERR_SLUICE_DISK_FULL`
 */
export function writeOut(data: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(data, (error) => {
      if (error) reject(outputError(error));
      else resolve();
    });
  });
}

/** One JSON object in one line. */
export function jsonLine(value: object): string {
  return `${JSON.stringify(value, hexForBigint)}\n`;
}

export function writeJson(value: object): Promise<void> {
  return writeOut(jsonLine(value));
}

/** Fire and forget: that standard error cannot be written cannot be told to anybody. */
export function writeErr(text: string): void {
  process.stderr.write(text);
}

/** Columns of the terminal that standard output is, undefined if it is none. */
export function outputWidth(): number | undefined {
  // A terminal without a known size has 0 columns.
  return (process.stdout.isTTY && process.stdout.columns) || undefined;
}

function hexForBigint(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : value;
}

function outputError(cause: NodeJS.ErrnoException): Error {
  if (cause.code === 'EPIPE') return new OutputClosed('standard output was closed', { cause });
  const code = cause.code === 'ENOSPC' ? 'ERR_SLUICE_DISK_FULL' : 'ERR_SLUICE_IO';
  const message = `Standard output cannot be written: ${cause.message}`;
  return new SluiceError(code, message, { syscall: cause.syscall, cause });
}
