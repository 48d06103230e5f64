import { type FlattenOptions, flattenImage } from '@sluice/core';
import { type Command, Option } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { writeJson, writeOut } from '../terminal/output.js';
import { path } from '../values.js';
import { renderFlattened } from '../views/flattened.js';

interface FlattenFlags extends Pick<FlattenOptions, 'checksum'> {
  out: string;
  json?: true;
}

export function addFlatten(program: Command): void {
  program
    .command('flatten')
    .description('write an image and those that it builds on as one new image')
    .argument('<dir>', 'directory of the image', path)
    .requiredOption('--out <dir>', 'directory of the new image; must not exist, or be empty', path)
    .addOption(
      new Option('--checksum <kind>', 'checksum of the new shards; the default is crc32c').choices([
        'crc32c',
        'none',
      ]),
    )
    .option('--json', 'print one JSON object')
    .action(flatten);
}

async function flatten(dir: string, { out, checksum, json }: FlattenFlags): Promise<void> {
  using interrupt = new InterruptScope('Nothing was kept.');
  const { signal } = interrupt;
  const result = await flattenImage(dir, { dir: out, checksum, signal });
  await (json ? writeJson(result) : writeOut(renderFlattened(dir, result)));
}
