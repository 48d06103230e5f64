import type { PreDumpResult } from '@sluice/core';
import { pairs } from '../terminal/table.js';
import { count, printable } from '../terminal/text.js';
import { ms } from '../terminal/units.js';

/** What a pre-dump took and how long the process stood still for it. */
export function renderPreDump(result: PreDumpResult): string {
  const { pid, images_dir, prev_images_dir, pages_written, pages_skipped_parent } = result;
  const { frozen_time, freezing_time, scan_time, total_time, capture, warnings } = result;
  const below =
    prev_images_dir === null ? [] : [`, ${count(pages_skipped_parent, 'page')} left to it`];
  return [
    `Pre-dumped process ${pid} to ${printable(images_dir)}`,
    prev_images_dir === null ? '\n\n' : `, on top of ${printable(prev_images_dir)}\n\n`,
    pairs([
      ['frozen', `${ms(frozen_time)}, from the first thread stopped to the last one resumed`],
      ['  stopping', `${ms(freezing_time)} until all threads stood still`],
      ['  marking', `${ms(scan_time)} to note and reset what was written`],
      ['stored', `${count(pages_written, 'page')}${below.join('')}, by ${capture}`],
      ['in all', ms(total_time)],
    ]),
    ...warnings.map((warning) => `  note: ${printable(warning)}\n`),
  ].join('');
}
