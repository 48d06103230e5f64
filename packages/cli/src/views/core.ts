import type { CoreResult } from '@sluice/core';
import { pairs } from '../terminal/table.js';
import { count, printable } from '../terminal/text.js';
import { mib, ms, rate } from '../terminal/units.js';

/** What a core holds, and how long a live process stood still for it. */
export function renderCore(source: string | undefined, result: CoreResult): string {
  const { pid, out, threads, mappings, core_bytes, bytes_written, filter } = result;
  const { left_out, write_time, dump } = result;
  const from = source === undefined ? `process ${pid}` : `process ${pid} in ${printable(source)}`;
  const to = out === null ? 'standard output' : printable(out);
  const frozen = `${ms(dump?.frozen_time ?? 0)}, from the first thread stopped to the last one resumed`;
  // Of a live process most is written while it is dumped.
  const throughput = dump === null ? rate(bytes_written, write_time) : undefined;
  return [
    `Wrote a core of ${from} to ${to}\n\n`,
    pairs([
      ...(dump === null
        ? []
        : ([
            ['frozen', frozen],
            ['dumping', `${ms(dump.total_time)}, ${count(dump.rounds.length, 'round')}`],
          ] as [string, string][])),
      ['writing', `${ms(write_time)}${throughput === undefined ? '' : `, ${throughput}`}`],
      ['holds', `${count(threads, 'thread')}, ${mib(bytes_written)} of ${mappings} mappings`],
      ['size', `${mib(core_bytes)}, what is only zeros included`],
      ['filter', `0x${filter.toString(16)}`],
    ]),
    ...left_out.map(
      ({ start, end, reason }) => `  note: ${start}-${end} is not in it: ${printable(reason)}\n`,
    ),
    ...(dump?.warnings ?? []).map((warning) => `  note: ${printable(warning)}\n`),
  ].join('');
}
