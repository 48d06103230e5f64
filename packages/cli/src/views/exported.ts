import type { ExportResult } from '@sluice/core';
import { count, printable } from '../terminal/text.js';
import { mib } from '../terminal/units.js';

/** What was exported where, in one line. */
export function renderExported(source: string, result: ExportResult): string {
  const { dir, format, images, pages_written, bytes_written } = result;
  const from = `${printable(source)} (${count(images, 'image')})`;
  const size = `${mib(bytes_written)} in ${count(pages_written, 'page')}`;
  return `Exported ${from} to ${printable(dir)} for ${format.toUpperCase()}, ${size}\n`;
}
