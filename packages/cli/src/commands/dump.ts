import { type DumpOptions, dumpProcess } from '@sluice/core';
import { type Command, Option } from 'commander';
import { InterruptScope } from '../interrupt.js';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { withProgress } from '../terminal/progress.js';
import { autoOrWholeNumber, decimal, path, wholeNumber } from '../values.js';
import { renderDump } from '../views/dump.js';

/** Options that were not given are missing: their defaults are those of the library. */
interface DumpFlags
  extends Pick<
    DumpOptions,
    | 'format'
    | 'lanes'
    | 'capture'
    | 'io'
    | 'checksum'
    | 'rounds'
    | 'tracker'
    | 'after'
    | 'consistency'
  > {
  out: string;
  freezeTimeout?: number;
  /** Of `--no-converge`, whose name commander takes for a negation: true if it was not given. */
  converge: true | 'finish' | 'fail';
  freezeBudget?: number;
  timeLimit?: number;
  json?: true;
}

export function addDump(program: Command): void {
  program
    .command('dump')
    .description('dump the memory of a process into a new image')
    .argument('<pid>', 'process to dump', wholeNumber)
    .requiredOption('--out <dir>', 'directory of the image; must not exist, or be empty', path)
    .addOption(
      new Option(
        '--format <format>',
        'sluice, the default; or criu: each round as a directory of images that CRIU reads',
      ).choices(['sluice', 'criu']),
    )
    .option(
      '--rounds <n>',
      'rounds taken while the process runs, before the freeze: auto, the default, is as many as pay; 0 is one freeze for all',
      autoOrWholeNumber,
    )
    .option(
      '--freeze-budget <ms>',
      'go on with rounds until the freeze is not longer than this',
      decimal(1),
    )
    .option(
      '--time-limit <s>',
      'begin no round that would end later than this after the start',
      decimal(1000),
    )
    .addOption(
      new Option(
        '--no-converge <action>',
        'if the freeze budget cannot be reached: finish, the default, freezes for longer; fail leaves the process alone',
      ).choices(['finish', 'fail']),
    )
    .addOption(
      new Option(
        '--tracker <name>',
        'what tells which pages were written; auto, the default, is the best that works here',
      ).choices(['auto', 'uffd-wp', 'soft-dirty', 'none']),
    )
    .addOption(
      new Option(
        '--after <action>',
        'then let the process resume, the default, or leave it stopped as by SIGSTOP',
      ).choices(['resume', 'stop']),
    )
    .addOption(
      new Option(
        '--consistency <how>',
        'keep the last pages as they are under freeze by a copy, or by a copy-on-write twin of the process; auto, the default, is what takes less time',
      ).choices(['auto', 'copy', 'twin']),
    )
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

async function dump(pid: number, flags: DumpFlags): Promise<void> {
  const { out, freezeTimeout, freezeBudget, timeLimit, converge, json, ...rest } = flags;
  using interrupt = new InterruptScope();
  const { signal } = interrupt;
  const options = {
    ...rest,
    dir: out,
    freezeTimeoutMs: freezeTimeout,
    noConverge: converge === true ? undefined : converge,
    freezeBudgetMs: freezeBudget,
    timeLimitMs: timeLimit === undefined ? undefined : Math.round(timeLimit),
    signal,
  };
  const result = await withProgress(dumpProcess(pid, options));
  await result.held?.leaveStopped();
  await (json ? writeJson(result) : writeOut(renderDump(result, outputWidth())));
}
