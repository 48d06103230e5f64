import { diffImages } from '@sluice/core';
import type { Command } from 'commander';
import { EXIT_FAILED } from '../failure.js';
import { InterruptScope } from '../interrupt.js';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { path, wholeNumber } from '../values.js';
import { renderDiff } from '../views/diff.js';

interface DiffFlags {
  pid?: number;
  json?: true;
}

export function addDiff(program: Command): void {
  program
    .command('diff')
    .description('show which pages differ between two images; status 1 if any do')
    .argument('<a>', 'directory of one image', path)
    .argument('<b>', 'directory of the other', path)
    .option('--pid <pid>', 'only this process', wholeNumber)
    .option('--json', 'print one JSON object')
    .action(diff);
}

async function diff(a: string, b: string, { pid, json }: DiffFlags): Promise<void> {
  using interrupt = new InterruptScope('Nothing was changed.');
  const result = await diffImages(a, b, { pid, signal: interrupt.signal });
  await (json ? writeJson(result) : writeOut(renderDiff(result, outputWidth())));
  if (!result.equal) process.exitCode = EXIT_FAILED;
}
