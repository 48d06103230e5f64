import type { RestoreResult } from '@sluice/core';
import { pairs } from '../terminal/table.js';
import { printable } from '../terminal/text.js';
import { ms } from '../terminal/units.js';

/** What a restore did, for people. */
export function renderRestore(dir: string, result: RestoreResult): string {
  const { pid, pages_written, pages_dropped, warnings } = result;
  const { mappings_mapped, mappings_unmapped, mappings_protected } = result;
  const { frozen_time, total_time } = result;
  const parts = [
    `Restored process ${pid} from ${printable(dir)}\n\n`,
    pairs([
      ['frozen', `${ms(frozen_time)}, from the first thread stopped to the last one resumed`],
      ['in all', ms(total_time)],
    ]),
    '\n',
    pairs([
      ['pages', `${pages_written} written, ${pages_dropped} dropped`],
      [
        'mappings',
        `${mappings_mapped} mapped, ${mappings_unmapped} unmapped, ${mappings_protected} protected anew`,
      ],
    ]),
  ];
  if (warnings.length > 0) parts.push('\n');
  for (const warning of warnings) parts.push(`  note: ${printable(warning)}\n`);
  return parts.join('');
}
