/** Soft-dirty bits, read in the plainest way. */
import { closeSync, openSync, readSync } from 'node:fs';
import { type Mapping, readMappings } from '../harness/procfs.js';

// Of an entry of /proc/PID/pagemap.
const PRESENT = 1n << 63n;
const SWAPPED = 1n << 62n;
const SOFT_DIRTY = 1n << 55n;

/** Addresses of the pages that exist and were written since the bits were reset. */
export function softDirtyPages(
  pid: number,
  wanted: (mapping: Mapping) => boolean = () => true,
): Set<bigint> {
  const pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
  const entry = Buffer.alloc(8);
  const pages = new Set<bigint>();
  try {
    for (const mapping of readMappings(pid)) {
      if (mapping.path.startsWith('[v') || !wanted(mapping)) continue;
      for (let at = mapping.start; at < mapping.end; at += 4096n) {
        if (readSync(pagemap, entry, 0, 8, (at / 4096n) * 8n) !== 8) throw new Error('cut short');
        const bits = entry.readBigUInt64LE();
        if ((bits & (PRESENT | SWAPPED)) !== 0n && (bits & SOFT_DIRTY) !== 0n) pages.add(at);
      }
    }
    return pages;
  } finally {
    closeSync(pagemap);
  }
}
