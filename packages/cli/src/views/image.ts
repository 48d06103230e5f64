import { type Column, pairs, table } from '../terminal/table.js';
import { count, printable, shortenRight } from '../terminal/text.js';
import { mib, mibNumber } from '../terminal/units.js';
import { chainTable } from './chain.js';
import type { ImageReport, ProcessReport, VmaReport } from './image_report.js';
import { roundsTable } from './rounds.js';

const KINDS: readonly Column[] = [
  { head: 'Kind' },
  { head: 'Mappings', align: 'right' },
  { head: 'MiB mapped', align: 'right' },
  { head: 'MiB stored', align: 'right' },
];

const MAPPINGS: readonly Column[] = [
  { head: 'Address' },
  { head: 'MiB', align: 'right' },
  { head: 'Stored', align: 'right' },
  { head: 'Prot' },
  { head: 'Kind' },
  { head: 'What', narrow: 'shorten' },
];

const LEFT_OUT: readonly Column[] = [
  { head: 'Left out' },
  { head: 'MiB', align: 'right' },
  { head: 'Why', narrow: 'wrap' },
];

/** What stands for `live` must warn: such an image looks like any other. */
const CONSISTENCY: Readonly<Record<string, string>> = {
  live: 'live, so that pages may not belong together',
};

/** @param width Columns of the terminal, if there is one. */
export function renderImage(report: ImageReport, width: number | undefined): string {
  const parts = [about(report), '\n', roundsTable(report.rounds, width)];
  if (report.chain.length > 1) parts.push('\n', chainTable(report.chain, width));
  for (const process of report.processes) parts.push('\n', renderProcess(process, width));
  return parts.join('');
}

function about(report: ImageReport): string {
  const { dir, producer, created, kernel, consistency, capture, chain, piece_bytes } = report;
  const bytes = chain.reduce((sum, image) => sum + image.bytes, 0);
  const checksum = piece_bytes > 0 ? `${report.checksum} per ${mib(piece_bytes)}` : report.checksum;
  const rows: [string, string][] = [
    ['made', `${created} by ${producer.name} ${producer.version}`],
    ['kernel', `${kernel.release} on ${kernel.machine}`],
    ['taken', `${CONSISTENCY[consistency] ?? consistency}, by ${capture}`],
    ['stored', `${mib(bytes)} in ${count(chain.length, 'image')}, checksum ${checksum}`],
  ];
  return `Image ${printable(dir)}\n${pairs(rows)}`;
}

function renderProcess(process: ProcessReport, width: number | undefined): string {
  const { pid, name, vmas, left_out } = process;
  const parts = [
    `Process ${pid} (${printable(name)})\n`,
    pairs(describe(process, width)),
    '\n',
    table(KINDS, byKind(vmas), width),
    '\n',
    table(MAPPINGS, vmas.map(mappingRow), width),
  ];
  if (left_out.length > 0) parts.push('\n', table(LEFT_OUT, left_out.map(leftOutRow), width));
  return parts.join('');
}

function describe(process: ProcessReport, width: number | undefined): [string, string][] {
  const { command_line, executable, threads, state, vmas, bytes_mapped } = process;
  const { bytes_stored, pages_stored, pages_in_parent } = process;
  const below = pages_in_parent > 0 ? `, ${count(pages_in_parent, 'page')} in images below` : '';
  const command = command_line.join(' ');
  return [
    ['command', width === undefined ? command : shortenRight(command, Math.max(20, width - 14))],
    ['executable', executable],
    ['threads', String(threads.length)],
    ...(state === null ? [] : [['user', userOf(state)] satisfies [string, string]]),
    ['mapped', `${mib(bytes_mapped)} in ${count(vmas.length, 'mapping')}`],
    ['stored', `${mib(bytes_stored)} in ${count(pages_stored, 'page')}${below}`],
  ];
}

function userOf({ user_ids, group_ids }: NonNullable<ProcessReport['state']>): string {
  return `${idsOf(user_ids)}, group ${idsOf(group_ids)}`;
}

/** Real, effective, saved and that for files; mostly they are one. */
function idsOf(ids: readonly number[]): string {
  const [real, ...others] = ids;
  return others.every((id) => id === real) ? String(real) : ids.join('/');
}

function byKind(vmas: readonly VmaReport[]): string[][] {
  const sums = new Map<string, { vmas: number; bytes: number; stored: number }>();
  for (const { kind, bytes, bytes_stored } of vmas) {
    const sum = sums.get(kind) ?? { vmas: 0, bytes: 0, stored: 0 };
    sum.vmas += 1;
    sum.bytes += bytes;
    sum.stored += bytes_stored;
    sums.set(kind, sum);
  }
  return [...sums]
    .sort(([, a], [, b]) => b.stored - a.stored)
    .map(([kind, sum]) => [kind, String(sum.vmas), mibNumber(sum.bytes), mibNumber(sum.stored)]);
}

function mappingRow(vma: VmaReport): string[] {
  const { start, bytes, bytes_stored, protection, shared, kind, path } = vma;
  return [
    `0x${start.toString(16)}`,
    mibNumber(bytes),
    mibNumber(bytes_stored),
    `${protection}${shared ? 's' : 'p'}`,
    kind,
    path,
  ];
}

function leftOutRow({ start, end, reason }: ProcessReport['left_out'][number]): string[] {
  return [`0x${start.toString(16)}`, mibNumber(Number(end - start)), reason];
}
