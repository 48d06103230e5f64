import { type DumpOptions, dumpProcess } from '@sluice/core';
import { type Command, Option } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { withProgress } from '../terminal/progress.js';
import { path, wholeNumber } from '../values.js';
import { renderDump } from '../views/dump.js';
import { addDumpingOptions, type DumpingFlags, dumpingOptions } from './dump_options.js';

interface DumpFlags
  extends DumpingFlags,
    Pick<DumpOptions, 'format' | 'io' | 'checksum' | 'after'> {
  out: string;
  json?: true;
}

export function addDump(program: Command): void {
  const command = program
    .command('dump')
    .description('dump the memory of a process into a new image')
    .argument('<pid>', 'process to dump', wholeNumber)
    .requiredOption('--out <dir>', 'directory of the image; must not exist, or be empty', path)
    .addOption(
      new Option(
        '--format <format>',
        'sluice, the default; or criu: each round as a directory of images that CRIU reads',
      ).choices(['sluice', 'criu']),
    );
  addDumpingOptions(command)
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
    .addOption(
      new Option(
        '--after <action>',
        'then let the process resume, the default, or leave it stopped as by SIGSTOP',
      ).choices(['resume', 'stop']),
    )
    .option('--json', 'print one JSON object')
    .action(dump);
}

async function dump(pid: number, flags: DumpFlags): Promise<void> {
  const { out, json, format, io, checksum, after } = flags;
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const options = { ...dumpingOptions(flags), dir: out, format, io, checksum, after, signal };
  const result = await withProgress(dumpProcess(pid, options));
  await result.held?.leaveStopped();
  await (json ? writeJson(result) : writeOut(renderDump(result, outputWidth())));
}
