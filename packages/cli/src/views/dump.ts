import type { DumpResult } from '@sluice/core';
import { pairs } from '../terminal/table.js';
import { count, printable } from '../terminal/text.js';
import { mib, ms, rate } from '../terminal/units.js';
import { roundsTable } from './rounds.js';

type Pair = [string, string];

/** What a dump did and how long it took; the pause of the process comes first. */
export function renderDump(result: DumpResult, width: number | undefined): string {
  const { pid, dir, rounds, warnings } = result;
  const parts = [
    `Dumped process ${pid} to ${printable(dir)}\n\n`,
    pairs([...freeze(result), ...around(result)]),
    '\n',
    pairs([...amounts(result), ...means(result)]),
  ];
  if (rounds.length > 1) parts.push('\n', roundsTable(rounds, width));
  if (warnings.length > 0) parts.push('\n');
  for (const warning of warnings) parts.push(`  note: ${printable(warning)}\n`);
  return parts.join('');
}

function freeze(result: DumpResult): Pair[] {
  const { frozen_time, freezing_time, memdump_time, memwrite_time, held } = result;
  // With soft-dirty bits.
  const inRounds = Math.max(
    ...result.rounds.map(({ kind, frozen_time }) => (kind === 'live' ? frozen_time : 0)),
  );
  const before: Pair[] =
    inRounds > 0 ? [['  before', `at most ${ms(inRounds)} at the start of each live round`]] : [];
  const until = held === null ? 'the last one resumed' : 'the image was whole; it is stopped now';
  return [
    ['frozen', `${ms(frozen_time)}, from the first thread stopped to ${until}`],
    ['  stopping', `${ms(freezing_time)} until all threads stood still`],
    ['  capturing', `${ms(memdump_time)} from then until the last page was taken`],
    ['  writing', `${ms(memwrite_time)} from then until the last page was written`],
    ...before,
  ];
}

function around(result: DumpResult): Pair[] {
  const { attach_time, attach_stopped_time, checksum_time, sync_time, total_time } = result;
  const stopped =
    attach_stopped_time > 0 ? `, single threads stopped for ${ms(attach_stopped_time)}` : '';
  return [
    ['attaching', `${ms(attach_time)}${stopped}`],
    ['sealing', `${ms(checksum_time)} for checksums, ${ms(sync_time)} for the disk`],
    ['in all', ms(total_time)],
  ];
}

function amounts(result: DumpResult): Pair[] {
  const { bytes_written, pages_written, pages_scanned, shards, left_out } = result;
  const { rounds, total_time } = result;
  const rows: Pair[] = [
    [
      'stored',
      `${mib(bytes_written)} (${count(pages_written, 'page')} of ${pages_scanned} looked at) in ${count(shards, 'shard')}`,
    ],
  ];
  if (left_out.length > 0) {
    rows.push(['left out', `${count(left_out.length, 'range')}, which sluice inspect lists`]);
  }
  const writing = rounds.reduce((time, round) => time + round.memwrite_time, 0);
  const whileWriting = rate(bytes_written, writing);
  const inAll = rate(bytes_written, total_time);
  if (whileWriting && inAll) {
    rows.push(['throughput', `${whileWriting} while writing, ${inAll} in all`]);
  }
  return rows;
}

function means(result: DumpResult): Pair[] {
  const { consistency, consistency_reason } = result;
  const { tracker, tracker_reason, capture, capture_reason, lanes, io, io_reason, checksum } =
    result;
  return [
    ['tracker', `${tracker}${because(tracker_reason)}`],
    ['capture', `${capture} in ${count(lanes, 'lane')}${because(capture_reason)}`],
    ['consistency', `${consistency}${because(consistency_reason)}`],
    ['output', `${io}${because(io_reason)}, checksum ${checksum}`],
  ];
}

function because(reason: string): string {
  return reason === '' ? '' : ` (${reason})`;
}
