/** What an error means to one who runs the command: one line, and an exit status. */
import { constants } from 'node:os';
import { AbortError, SluiceError } from '@sluice/core';
import type { CommanderError } from 'commander';
import { Interruption } from './interrupt.js';
import { printable } from './terminal/text.js';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

export interface Failure {
  /** Without a newline. */
  line: string;
  status: number;
}

/** Never throws, whatever it is given. */
export function describeFailure(error: unknown): Failure {
  if (SluiceError.isSluiceError(error)) {
    const { code, message } = error;
    // The advice of this code is for callers of the library; here it is where to find the usage.
    return code === 'ERR_SLUICE_OPTION'
      ? { line: lineOf(code, message), status: EXIT_USAGE }
      : { line: lineOf(code, message, error.advice), status: EXIT_FAILED };
  }
  if (error instanceof AbortError) return describeAbort(error);
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  const advice = 'This is a bug in Sluice. Run again with NODE_DEBUG=sluice to see where it is.';
  return { line: lineOf('INTERNAL', message, advice), status: EXIT_FAILED };
}

/** The public error for one of the argument parser. */
export function usageError({ code, message }: CommanderError): SluiceError {
  const text =
    code === 'commander.help' ? 'There is no command given' : message.replace(/^error: /, '');
  return new SluiceError('ERR_SLUICE_OPTION', text);
}

function describeAbort(error: AbortError): Failure {
  const { code, message, cause, thawed } = error;
  const advice = thawed ? 'The target runs on; nothing was kept.' : 'The target may be frozen.';
  if (!(cause instanceof Interruption)) {
    return { line: lineOf(code, message, advice), status: EXIT_FAILED };
  }
  const status = 128 + constants.signals[cause.signalName];
  const line = lineOf(code, `${message} by ${cause.signalName}`, cause.aftermath ?? advice);
  return { line, status };
}

function lineOf(code: string, message: string, advice?: string): string {
  const text = printable(message.trim().replace(/\s*\n\s*/g, ' '));
  return `sluice: ${code}: ${text}${advice === undefined ? '' : ` (${advice})`}`;
}
