import type { VerifyResult } from '@sluice/core';
import { count, printable } from '../terminal/text.js';
import { mib } from '../terminal/units.js';

/** What was verified, in one line. */
export function renderVerified(dir: string, result: VerifyResult): string {
  const { shards, pieces, bytes, checksum } = result;
  const found =
    checksum === 'none'
      ? 'has no checksums of its pages; manifest, page tables and sizes are right'
      : `is undamaged, ${count(pieces, 'checksum')} of pages hold`;
  return `${printable(dir)} ${found} (${count(shards, 'shard')}, ${mib(bytes)})\n`;
}
