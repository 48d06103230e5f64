/**
 * What freezes a process, with limits for tests: on a busy machine a thread may wait for the disk for
 * longer than anybody should wait for it. A limit that is given counts.
 */
import type { ChildProcess } from 'node:child_process';
import * as core from '@sluice/core';
import * as command from '../unit/cli/run_sluice.js';
import { scaledMs } from './time.js';

const PATIENT = {
  freezeTimeoutMs: Math.min(scaledMs(30_000), 60_000),
  freezeLimitMs: scaledMs(60_000),
};
const FREEZE_TIMEOUT = '--freeze-timeout';
const FREEZING = ['dump', 'predump', 'restore'];

export function dumpProcess(pid: number, options: core.DumpOptions) {
  return core.dumpProcess(pid, { ...PATIENT, ...options });
}

export function preDumpProcess(pid: number, options: core.PreDumpOptions) {
  return core.preDumpProcess(pid, { ...PATIENT, ...options });
}

export function coreProcess(pid: number, options: core.CoreProcessOptions) {
  return core.coreProcess(pid, { ...PATIENT, ...options });
}

export function restoreInto(
  pid: number,
  image: core.Image | string,
  options: core.RestoreOptions = {},
) {
  return core.restoreInto(pid, image, { ...PATIENT, ...options });
}

/** Arguments of the command. */
export function patiently(args: readonly string[]): string[] {
  const freezes = FREEZING.includes(args[0] ?? '') || args.includes('--pid');
  return freezes && !args.includes(FREEZE_TIMEOUT)
    ? [...args, FREEZE_TIMEOUT, String(PATIENT.freezeTimeoutMs)]
    : [...args];
}

export function startSluice(args: readonly string[], cwd?: string): ChildProcess {
  return command.startSluice(patiently(args), cwd);
}

export function sluice(...args: readonly string[]): Promise<command.Outcome> {
  return command.sluice(...patiently(args));
}
