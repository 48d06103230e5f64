/** The command line as a whole. A new command is a file in commands/ and a line in `COMMANDS`. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { addCore } from './commands/core.js';
import { addDiff } from './commands/diff.js';
import { addDoctor } from './commands/doctor.js';
import { addDump } from './commands/dump.js';
import { addExport } from './commands/export.js';
import { addFlatten } from './commands/flatten.js';
import { addInspect } from './commands/inspect.js';
import { addPreDump } from './commands/predump.js';
import { addRead } from './commands/read.js';
import { addRestore } from './commands/restore.js';
import { addVerify } from './commands/verify.js';

const COMMANDS = [
  addDoctor,
  addDump,
  addInspect,
  addVerify,
  addRead,
  addDiff,
  addFlatten,
  addExport,
  addCore,
  addPreDump,
  addRestore,
];

const AFTER_HELP = `
Exit status: 0 done, 1 failed (of diff also: images differ), 2 wrong usage;
128 plus the number of the signal if a signal ended it. Errors are one line on
standard error.`;

/** @param onHelp Takes the text of --help and --version. */
export function createProgram(onHelp: (text: string) => void = () => {}): Command {
  const program = new Command('sluice')
    .description('Dumps the memory of a live process, and reads what was dumped.')
    .version(ownVersion())
    .addHelpText('after', AFTER_HELP)
    // Settings before the commands: these inherit them.
    .exitOverride()
    .configureOutput({
      writeOut: onHelp,
      // Comes back as an error, which is told in one line.
      writeErr: () => {},
    });
  for (const add of COMMANDS) add(program);
  return program;
}

function ownVersion(): string {
  const file = new URL('../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}
