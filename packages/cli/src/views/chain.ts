import { type Column, table } from '../terminal/table.js';
import { mibNumber } from '../terminal/units.js';
import type { ChainImageReport } from './image_report.js';

const COLUMNS: readonly Column[] = [
  { head: 'Chain', align: 'right' },
  { head: 'Taken' },
  { head: 'Own pages', align: 'right' },
  { head: 'Pages below', align: 'right' },
  { head: 'MiB', align: 'right' },
  { head: 'Image', narrow: 'shorten' },
];

/** The images that make up one, newest first, by their rounds. */
export function chainTable(chain: readonly ChainImageReport[], width: number | undefined): string {
  const rows = chain.map(({ dir, round, consistency, pages_stored, pages_in_parent, bytes }) => [
    `round ${round}`,
    consistency,
    String(pages_stored),
    // A live image names its own pages only.
    consistency === 'live' ? '' : String(pages_in_parent),
    mibNumber(bytes),
    dir,
  ]);
  return table(COLUMNS, rows, width);
}
