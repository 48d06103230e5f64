import { openImage } from '@sluice/core';
import type { Command } from 'commander';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { path } from '../values.js';
import { renderImage } from '../views/image.js';
import { reportImage } from '../views/image_report.js';

interface InspectFlags {
  json?: true;
}

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .description('show the processes, mappings, sizes and rounds of an image')
    .argument('<dir>', 'directory of the image', path)
    .option('--json', 'print one JSON object')
    .action(inspect);
}

async function inspect(dir: string, { json }: InspectFlags): Promise<void> {
  await using image = await openImage(dir);
  const report = reportImage(image);
  await (json ? writeJson(report) : writeOut(renderImage(report, outputWidth())));
}
