import { type PreDumpOptions, preDumpProcess } from '@sluice/core';
import type { Command } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { writeJson, writeOut } from '../terminal/output.js';
import { path, wholeNumber } from '../values.js';
import { renderPreDump } from '../views/predump.js';
import { addCapturingOptions } from './dump_options.js';

interface PreDumpFlags
  extends Pick<PreDumpOptions, 'imagesDir' | 'prevImagesDir' | 'capture' | 'force'> {
  freezeTimeout?: number;
  freezeLimit?: number;
  json?: true;
}

export function addPreDump(program: Command): void {
  const command = program
    .command('predump')
    .description('take the memory of a process while it runs, for `criu dump` to build on')
    .argument('<pid>', 'process to dump', wholeNumber)
    .requiredOption(
      '--images-dir <dir>',
      'directory for the images; must not exist, or be empty',
      path,
    )
    .option(
      '--prev-images-dir <dir>',
      'the pre-dump before this one, as a path from the images directory',
      path,
    );
  addCapturingOptions(command).option('--json', 'print one JSON object').action(preDump);
}

async function preDump(pid: number, flags: PreDumpFlags): Promise<void> {
  const { freezeTimeout: freezeTimeoutMs, freezeLimit: freezeLimitMs, json, ...rest } = flags;
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const result = await preDumpProcess(pid, { ...rest, freezeTimeoutMs, freezeLimitMs, signal });
  await (json ? writeJson(result) : writeOut(renderPreDump(result)));
}
