import { exportImage } from '@sluice/core';
import { type Command, Option } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { writeJson, writeOut } from '../terminal/output.js';
import { path } from '../values.js';
import { renderExported } from '../views/exported.js';

interface ExportFlags {
  out: string;
  format: 'criu';
  json?: true;
}

export function addExport(program: Command): void {
  program
    .command('export')
    .description('write an image and those that it builds on in the format of another tool')
    .argument('<dir>', 'directory of the image', path)
    .addOption(
      new Option('--format <format>', 'criu: as `criu dump --prev-images-dir` takes it')
        .choices(['criu'])
        .makeOptionMandatory(),
    )
    .requiredOption('--out <dir>', 'directory to write; must not exist, or be empty', path)
    .option('--json', 'print one JSON object')
    .action(exportTo);
}

async function exportTo(dir: string, { out, format, json }: ExportFlags): Promise<void> {
  using interrupt = new InterruptScope('Nothing was kept.');
  const { signal } = interrupt;
  const result = await exportImage(dir, out, { format, signal });
  await (json ? writeJson(result) : writeOut(renderExported(dir, result)));
}
