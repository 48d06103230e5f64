import type { Check, CleanResult, SystemReport, TargetReport } from '@sluice/core';
import { type Column, table } from '../terminal/table.js';
import { printable } from '../terminal/text.js';

export interface DoctorReport {
  /** Whether a dump may be tried. */
  ok: boolean;
  system: SystemReport;
  /** Null if no pid was given. */
  target: TargetReport | null;
  /** Only where that was asked for. */
  cleaned?: CleanResult | undefined;
}

const COLUMNS: readonly Column[] = [
  { head: 'Check' },
  { head: 'OK' },
  { head: 'What it means', narrow: 'wrap' },
  { head: 'Found', narrow: 'wrap' },
];

/** @param width Columns of the terminal, if there is one. */
export function renderDoctor(
  { system, target, cleaned }: DoctorReport,
  width: number | undefined,
): string {
  const { release, machine, ok, checks } = system;
  const verdict = ok ? 'processes can be dumped' : 'no process can be dumped';
  const parts = [`Linux ${release} on ${machine}: ${verdict}\n`, checksTable(checks, width)];
  if (target !== null) parts.push('\n', headOf(target), checksTable(target.checks, width));
  if (cleaned !== undefined) parts.push('\n', cleanedText(cleaned));
  return parts.join('');
}

function cleanedText({ pid, mappings, zombies }: CleanResult): string {
  if (mappings + zombies === 0) return `Process ${pid} had nothing of a dumper left in it\n`;
  return `Removed from process ${pid}: mappings of 32 KiB: ${mappings}, zombie children: ${zombies}\n`;
}

function headOf({ pid, name, ok }: TargetReport): string {
  const named = name === '' ? '' : ` (${printable(name)})`;
  return `Process ${pid}${named}: ${ok ? 'can be dumped' : 'cannot be dumped'}\n`;
}

function checksTable(checks: readonly Check[], width: number | undefined): string {
  const rows = checks.map(({ name, ok, means, detail }) => [
    name,
    ok ? 'yes' : 'no',
    means,
    detail,
  ]);
  return table(COLUMNS, rows, width);
}
