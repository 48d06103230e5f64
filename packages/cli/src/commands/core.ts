import { Writable } from 'node:stream';
import { type CoreResult, coreProcess, SluiceError, writeCore } from '@sluice/core';
import type { Command } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { jsonLine, writeErr, writeOut } from '../terminal/output.js';
import { mask, path, wholeNumber } from '../values.js';
import { renderCore } from '../views/core.js';
import { addDumpingOptions, type DumpingFlags, dumpingOptions } from './dump_options.js';

interface CoreFlags extends DumpingFlags {
  out: string;
  pid?: number;
  filter?: number;
  tmp?: string;
  json?: true;
}

/** In place of a file: standard output. */
const STDOUT = '-';

export function addCore(program: Command): void {
  const command = program
    .command('core')
    .description('write an ELF core of an image, or of a live process, for debuggers')
    .argument('[dir]', 'directory of the image; none for a live process', path)
    .option(
      '--pid <pid>',
      'the live process; or which one of those in the image, if there are several',
      wholeNumber,
    )
    .requiredOption(
      '--out <file>',
      'file to write, which must not exist; - is standard output, and what is printed goes to standard error',
      path,
    )
    .option(
      '--filter <mask>',
      'mappings that it holds, as in /proc/PID/coredump_filter; the default is that of the live process, else 0x33',
      mask,
    )
    .option(
      '--tmp <dir>',
      'go through an image of the live process in this directory; by default only a core for standard output does',
      path,
    );
  addDumpingOptions(command).option('--json', 'print one JSON object').action(core);
}

async function core(dir: string | undefined, flags: CoreFlags): Promise<void> {
  const { out, json } = flags;
  if (out === STDOUT && process.stdout.isTTY) {
    throw usage('A core is not for a terminal: send standard output elsewhere, or name a file');
  }
  using interrupt = new InterruptScope(dir === undefined ? undefined : 'Nothing was kept.');
  const target = out === STDOUT ? standardOutput() : out;
  const result = await make(dir, flags, target, interrupt.signal);
  const text = json ? jsonLine(result) : renderCore(dir, result);
  // Standard output is the core.
  if (out === STDOUT) writeErr(text);
  else await writeOut(text);
}

function make(
  dir: string | undefined,
  flags: CoreFlags,
  out: string | Writable,
  signal: AbortSignal,
): Promise<CoreResult> {
  const { pid, filter, tmp: temporaryDir } = flags;
  const dumping = { ...dumpingOptions(flags), temporaryDir };
  if (dir === undefined) {
    if (pid === undefined) throw usage('Expected the directory of an image, or --pid');
    return coreProcess(pid, { ...dumping, out, filter, signal });
  }
  if (Object.values(dumping).some((value) => value !== undefined)) {
    throw usage('Options of a dump, and --tmp, are for a live process and not for an image');
  }
  return writeCore(dir, { out, pid, filter, signal });
}

/** That somebody stops reading is told as for other output. */
function standardOutput(): Writable {
  return new Writable({
    write(bytes: Uint8Array, _, taken) {
      writeOut(bytes).then(() => taken(), taken);
    },
  });
}

function usage(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_OPTION', message);
}
