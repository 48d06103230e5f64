/** Options that all commands have which dump a process in rounds. */
import type { DumpOptions } from '@sluice/core';
import { type Command, Option } from 'commander';
import { autoOrWholeNumber, decimal, wholeNumber } from '../values.js';

/** Options that were not given are missing: their defaults are those of the library. */
export interface DumpingFlags
  extends Pick<DumpOptions, 'lanes' | 'capture' | 'rounds' | 'tracker' | 'consistency' | 'force'> {
  freezeTimeout?: number;
  freezeLimit?: number;
  /** Of `--no-converge`, whose name commander takes for a negation: true if it was not given. */
  converge: true | 'finish' | 'fail';
  freezeBudget?: number;
  timeLimit?: number;
}

export function addDumpingOptions(command: Command): Command {
  command
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
        '--consistency <how>',
        'keep the last pages as they are under freeze by a copy, or by a copy-on-write twin of the process; auto, the default, is what takes less time',
      ).choices(['auto', 'copy', 'twin']),
    )
    .option(
      '--lanes <n>',
      'threads that capture; the default is one per CPU, at most 4',
      wholeNumber,
    );
  return addCapturingOptions(command);
}

/** Those of pre-dumps, too. */
export function addCapturingOptions(command: Command): Command {
  return addFreezingOptions(
    command
      .addOption(
        new Option(
          '--capture <how>',
          'how pages are taken; auto, the default, is vmsplice where it works',
        ).choices(['auto', 'vmsplice', 'read']),
      )
      .option(
        '--force',
        'inject calls even where the seccomp filter of the process would end it if this command were killed at that instant',
      ),
  );
}

/** Those of all that freeze a process. */
export function addFreezingOptions(command: Command): Command {
  return command
    .option(
      '--freeze-timeout <ms>',
      'give up when not all threads stand still by then; the default is 1000',
      wholeNumber,
    )
    .option(
      '--freeze-limit <ms>',
      'let the process go on, and fail, when it was frozen for that long (restoring: without progress), whatever hangs; the default is 10000, and none if it is to stay stopped',
      wholeNumber,
    );
}

/** As the library takes them; those that were not given are undefined. */
export function dumpingOptions(flags: DumpingFlags) {
  const { rounds, tracker, consistency, lanes, capture, force } = flags;
  const { freezeTimeout, freezeLimit, freezeBudget, timeLimit, converge } = flags;
  return {
    rounds,
    tracker,
    consistency,
    lanes,
    capture,
    force,
    freezeTimeoutMs: freezeTimeout,
    freezeLimitMs: freezeLimit,
    noConverge: converge === true ? undefined : converge,
    freezeBudgetMs: freezeBudget,
    timeLimitMs: timeLimit === undefined ? undefined : Math.round(timeLimit),
  };
}
