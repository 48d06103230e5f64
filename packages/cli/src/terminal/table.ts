/** Tables that fit the terminal: plain columns, no lines, so that they can be copied and searched. */
import Table from 'cli-table3';
import { printable, shortenLeft } from './text.js';

const GAP = 2;
const NARROWEST = 10;

export interface Column {
  head: string;
  align?: 'left' | 'right';
  /** What to do where the terminal is too narrow; without it the column keeps its width. */
  narrow?: 'wrap' | 'shorten';
}

/**
 * @param rows Cells as text; control characters in them are replaced.
 * @param width Columns of the terminal; undefined for as wide as it takes.
 * @returns Lines, each with a newline.
 */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width: number | undefined,
): string {
  const cells = rows.map((row) => columns.map((_, i) => printable(row[i] ?? '')));
  const widths = fit(columns, naturalWidths(columns, cells), width);
  const made = new Table({
    head: columns.map(({ head }) => head),
    colAligns: columns.map(({ align }) => align ?? 'left'),
    colWidths: widths.map((natural) => natural + GAP),
    wordWrap: true,
    chars: NO_LINES,
    style: { 'padding-left': 0, 'padding-right': GAP, head: [], border: [], compact: true },
  });
  for (const row of cells) made.push(row.map((cell, i) => short(cell, columns[i], widths[i])));
  return lines(made.toString());
}

/** Name and value, one pair a line. */
export function pairs(rows: readonly (readonly [string, string])[], indent = '  '): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows
    .map(([name, value]) => `${indent}${name.padEnd(width)}  ${printable(value)}\n`)
    .join('');
}

function short(cell: string, column: Column | undefined, width = cell.length): string {
  return column?.narrow === 'shorten' ? shortenLeft(cell, width) : cell;
}

function naturalWidths(columns: readonly Column[], cells: readonly string[][]): number[] {
  return columns.map(({ head }, i) =>
    cells.reduce((widest, row) => Math.max(widest, row[i]?.length ?? 0), head.length),
  );
}

/** Takes from the widest column that can give, until all fit. */
function fit(columns: readonly Column[], natural: number[], width: number | undefined): number[] {
  const widths = [...natural];
  if (width === undefined) return widths;
  const least = columns.map(({ head }) => Math.max(NARROWEST, head.length));
  const total = () => widths.reduce((sum, each) => sum + each, GAP * (widths.length - 1));
  const spare = (i: number) => (columns[i]?.narrow ? (widths[i] ?? 0) - (least[i] ?? 0) : 0);
  for (let over = total() - width; over > 0; over -= 1) {
    const giving = widths.reduce((best, _, i) => (spare(i) > spare(best) ? i : best), 0);
    if (spare(giving) <= 0) break;
    widths[giving] = (widths[giving] ?? 0) - 1;
  }
  return widths;
}

function lines(text: string): string {
  return text === '' ? '' : `${text.replace(/ +$/gm, '')}\n`;
}

const NO_LINES = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
};
