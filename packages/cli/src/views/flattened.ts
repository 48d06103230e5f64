import type { FlattenResult } from '@sluice/core';
import { count, printable } from '../terminal/text.js';
import { mib } from '../terminal/units.js';

/** What was made of what, in one line. */
export function renderFlattened(source: string, result: FlattenResult): string {
  const { dir, images, pages_written, bytes_written } = result;
  const from = `${printable(source)} (${count(images, 'image')})`;
  const size = `${mib(bytes_written)} in ${count(pages_written, 'page')}`;
  return `Flattened ${from} to ${printable(dir)}, ${size}\n`;
}
