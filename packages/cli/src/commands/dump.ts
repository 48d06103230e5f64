import { type DumpOptions, dumpProcess } from '@sluice/core';
import { type Command, Option } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { withProgress } from '../terminal/progress.js';
import { path, wholeNumber } from '../values.js';
import { renderDump } from '../views/dump.js';

/** Options that were not given are missing: their defaults are those of the library. */
interface DumpFlags extends Pick<DumpOptions, 'lanes' | 'capture' | 'io' | 'checksum'> {
  out: string;
  freezeTimeout?: number;
  json?: true;
}

export function addDump(program: Command): void {
  program
    .command('dump')
    .description('dump the memory of a process into a new image')
    .argument('<pid>', 'process to dump', wholeNumber)
    .requiredOption('--out <dir>', 'directory of the image; must not exist, or be empty', path)
    .option(
      '--lanes <n>',
      'threads that capture; the default is one per CPU, at most 4',
      wholeNumber,
    )
    .addOption(
      new Option(
        '--capture <how>',
        'how pages are taken; auto, the default, is vmsplice where it works',
      ).choices(['auto', 'vmsplice', 'read']),
    )
    .addOption(
      new Option(
        '--io <how>',
        'how shards are written; auto, the default, is direct where it works',
      ).choices(['auto', 'direct', 'buffered']),
    )
    .addOption(
      new Option('--checksum <kind>', 'checksum of the shards; the default is crc32c').choices([
        'crc32c',
        'none',
      ]),
    )
    .option(
      '--freeze-timeout <ms>',
      'give up when not all threads stand still by then; the default is 1000',
      wholeNumber,
    )
    .option('--json', 'print one JSON object')
    .action(dump);
}

async function dump(pid: number, { out, freezeTimeout, json, ...rest }: DumpFlags): Promise<void> {
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const options = { ...rest, dir: out, freezeTimeoutMs: freezeTimeout, signal };
  const result = await withProgress(dumpProcess(pid, options));
  await (json ? writeJson(result) : writeOut(renderDump(result, outputWidth())));
}
