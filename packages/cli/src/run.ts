/** From arguments to what the command did; the only place where errors become words. */
import { debuglog } from 'node:util';
import { CommanderError } from 'commander';
import { describeFailure, EXIT_USAGE, type Failure, usageError } from './failure.js';
import { createProgram } from './program.js';
import { OutputClosed, writeOut } from './terminal/output.js';

/** `NODE_DEBUG=sluice` shows whole errors, with stack and cause. */
const debug = debuglog('sluice');

/** Runs one command, and never rejects. Resolves with why it failed, or undefined. */
export async function run(args: readonly string[]): Promise<Failure | undefined> {
  try {
    await runProgram(args);
    return undefined;
  } catch (error) {
    debug('%O', error);
    // Whoever read our output has seen enough of it, like `head`.
    if (error instanceof OutputClosed) return undefined;
    const { line, status } = describeFailure(error);
    return { line: status === EXIT_USAGE ? `${line} (see ${helpFor(args[0])})` : line, status };
  }
}

async function runProgram(args: readonly string[]): Promise<void> {
  let help = '';
  const program = createProgram((text) => {
    help += text;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode !== 0) throw usageError(error);
    await writeOut(help);
  }
}

function helpFor(name: string | undefined): string {
  const known = createProgram().commands.some((command) => command.name() === name);
  return known ? `sluice ${name} --help` : 'sluice --help';
}
