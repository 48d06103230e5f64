import { restoreInto } from '@sluice/core';
import type { Command } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { writeJson, writeOut } from '../terminal/output.js';
import { path, wholeNumber } from '../values.js';
import { renderRestore } from '../views/restore.js';
import { addFreezingOptions } from './dump_options.js';

interface RestoreFlags {
  into: number;
  force?: true;
  shared?: true;
  freezeTimeout?: number;
  freezeLimit?: number;
  json?: true;
}

export function addRestore(program: Command): void {
  const command = program
    .command('restore')
    .description('take the process that was dumped back to its image')
    .argument('<dir>', 'directory of the image', path)
    .requiredOption('--into <pid>', 'the process, which still runs', wholeNumber)
    .option('--force', 'do it though the process is lost if this command is killed in the middle')
    .option('--shared', 'also change shared memory that other processes have mapped');
  addFreezingOptions(command).option('--json', 'print one JSON object').action(restore);
}

async function restore(
  dir: string,
  { into, force, shared, freezeTimeout, freezeLimit, json }: RestoreFlags,
): Promise<void> {
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const limits = { freezeTimeoutMs: freezeTimeout, freezeLimitMs: freezeLimit };
  const result = await restoreInto(into, dir, { force, shared, ...limits, signal });
  await (json ? writeJson(result) : writeOut(renderRestore(dir, result)));
}
