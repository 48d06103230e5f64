import type { RoundResult } from '@sluice/core';
import { type Column, table } from '../terminal/table.js';
import { mibNumber, ms } from '../terminal/units.js';

const COLUMNS: readonly Column[] = [
  { head: 'Round', align: 'right' },
  { head: 'Kind' },
  { head: 'Pages', align: 'right' },
  { head: 'MiB', align: 'right' },
  { head: 'Scanning', align: 'right' },
  { head: 'Stopping', align: 'right' },
  { head: 'Frozen', align: 'right' },
  { head: 'Capturing', align: 'right' },
  { head: 'Writing', align: 'right' },
];

/** Of a round in a result or in an image; an image may come from a version that noted other times. */
export type RoundFigures = Pick<RoundResult, 'pages_written' | 'bytes_written'> & {
  kind: string;
} & Partial<Pick<RoundResult, TimeName>>;

type TimeName = 'scan_time' | 'freezing_time' | 'frozen_time' | 'memdump_time' | 'memwrite_time';

const TIMES: readonly TimeName[] = [
  'scan_time',
  'freezing_time',
  'frozen_time',
  'memdump_time',
  'memwrite_time',
];

/** Most live rounds have no freeze. */
const OF_FREEZE: ReadonlySet<TimeName> = new Set(['freezing_time', 'frozen_time']);

export function roundsTable(rounds: readonly RoundFigures[], width: number | undefined): string {
  const rows = rounds.map((round, index) => [
    String(index + 1),
    round.kind,
    String(round.pages_written),
    mibNumber(round.bytes_written),
    ...TIMES.map((name) => {
      const time = round[name];
      const isNone = time === undefined || (time === 0 && OF_FREEZE.has(name));
      return isNone ? '' : ms(time);
    }),
  ]);
  return table(COLUMNS, rows, width);
}
