import { restoreInto } from '@sluice/core';
import type { Command } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { writeJson, writeOut } from '../terminal/output.js';
import { path, wholeNumber } from '../values.js';
import { renderRestore } from '../views/restore.js';

interface RestoreFlags {
  into: number;
  force?: true;
  shared?: true;
  freezeTimeout?: number;
  json?: true;
}

export function addRestore(program: Command): void {
  program
    .command('restore')
    .description('take the process that was dumped back to its image')
    .argument('<dir>', 'directory of the image', path)
    .requiredOption('--into <pid>', 'the process, which still runs', wholeNumber)
    .option('--force', 'do it though the process is lost if this command is killed in the middle')
    .option('--shared', 'also change shared memory that other processes have mapped')
    .option(
      '--freeze-timeout <ms>',
      'give up when not all threads stand still by then; the default is 1000',
      wholeNumber,
    )
    .option('--json', 'print one JSON object')
    .action(restore);
}

async function restore(
  dir: string,
  { into, force, shared, freezeTimeout, json }: RestoreFlags,
): Promise<void> {
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const options = { force, shared, freezeTimeoutMs: freezeTimeout, signal };
  const result = await restoreInto(into, dir, options);
  await (json ? writeJson(result) : writeOut(renderRestore(dir, result)));
}
