import type { DiffProcess, DiffResult, DiffVma } from '@sluice/core';
import { type Column, table } from '../terminal/table.js';
import { count } from '../terminal/text.js';

const COLUMNS: readonly Column[] = [
  { head: 'Address' },
  { head: 'Differ', align: 'right' },
  { head: 'Only in A', align: 'right' },
  { head: 'Only in B', align: 'right' },
  { head: 'First' },
  { head: 'Kind' },
  { head: 'What', narrow: 'shorten' },
];

/** @param width Columns of the terminal, if there is one. */
export function renderDiff({ processes }: DiffResult, width: number | undefined): string {
  return processes.map((process) => renderProcess(process, width)).join('\n');
}

function renderProcess(process: DiffProcess, width: number | undefined): string {
  const { pid_a, pid_b, pages_compared, vmas } = process;
  const pids = pid_a === pid_b ? `${pid_a}` : `${pid_a ?? 'none'} in A, ${pid_b ?? 'none'} in B`;
  const counts = [
    `${process.pages_differing} differ`,
    `${process.pages_only_in_a} only in A`,
    `${process.pages_only_in_b} only in B`,
  ];
  const line = `Process ${pids}: ${counts.join(', ')}, of ${count(pages_compared, 'page')}\n`;
  return vmas.length === 0 ? line : `${line}${table(COLUMNS, vmas.map(vmaRow), width)}`;
}

function vmaRow(vma: DiffVma): string[] {
  const { start, first, kind, path, pages_differing, pages_only_in_a, pages_only_in_b } = vma;
  const counts = [pages_differing, pages_only_in_a, pages_only_in_b].map(String);
  return [`0x${start.toString(16)}`, ...counts, `0x${first.toString(16)}`, kind, path];
}
