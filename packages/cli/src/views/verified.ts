import type { VerifyResult } from '@sluice/core';
import { count, printable } from '../terminal/text.js';
import { mib } from '../terminal/units.js';

/** What was verified, in one line. */
export function renderVerified(dir: string, result: VerifyResult): string {
  const { images, shards, pieces, bytes, checksum } = result;
  const found =
    checksum === 'none'
      ? 'has no checksums of its pages; manifest, page tables and sizes are right'
      : `is undamaged, ${count(pieces, 'checksum')} of pages hold`;
  const chain = images > 1 ? `${count(images, 'image')}, ` : '';
  return `${printable(dir)} ${found} (${chain}${count(shards, 'shard')}, ${mib(bytes)})\n`;
}
