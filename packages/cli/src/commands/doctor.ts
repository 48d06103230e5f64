import {
  type CleanResult,
  cleanTarget,
  inspectSystem,
  inspectTarget,
  openTarget,
  SluiceError,
} from '@sluice/core';
import type { Command } from 'commander';
import { outputWidth, writeJson, writeOut } from '../terminal/output.js';
import { wholeNumber } from '../values.js';
import { type DoctorReport, renderDoctor } from '../views/doctor.js';

interface DoctorFlags {
  clean?: true;
  json?: true;
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('tell what this kernel, this caller and a process allow, and what that means')
    .argument('[pid]', 'process to look at; it is not touched', wholeNumber)
    .option('--clean', 'remove what a dumper that was killed left in the process')
    .option('--json', 'print one JSON object')
    .action(doctor);
}

async function doctor(pid: number | undefined, { clean, json }: DoctorFlags): Promise<void> {
  let cleaned: CleanResult | undefined;
  if (clean) {
    if (pid === undefined) {
      throw new SluiceError('ERR_SLUICE_OPTION', 'Option "--clean" needs the pid of a process');
    }
    cleaned = await cleanTarget(pid);
  }
  // An image goes below the current directory more often than not.
  const system = inspectSystem(process.cwd());
  const target = pid === undefined ? null : inspectTarget(pid);
  const report = { ok: system.ok && target?.ok !== false, system, target, cleaned };
  await (json ? writeJson(jsonOf(report)) : writeOut(renderDoctor(report, outputWidth())));
  if (!report.ok) await fail(report);
}

/** Names as in the JSON of the other commands. */
function jsonOf({ ok, system, target, cleaned }: DoctorReport): object {
  const { pageSizeBytes, checks, ...rest } = system;
  return { ok, system: { ...rest, page_size: pageSizeBytes, checks }, target, cleaned };
}

/** A dump would fail, and so does this, with the error that it would fail with. */
async function fail({ system, target }: DoctorReport): Promise<never> {
  if (target !== null && !target.ok) await (await openTarget(target.pid)).close();
  const failed = system.checks.filter(({ ok }) => !ok).map(({ detail, name }) => detail || name);
  const message = `No process can be dumped here: ${failed.join('; ')}`;
  throw new SluiceError('ERR_SLUICE_PERMISSION', message);
}
