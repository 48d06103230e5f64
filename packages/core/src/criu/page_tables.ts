/** Page tables as Sluice has them, of pagemaps as CRIU has them. */
import { corrupt } from '../image/faults.js';
import { IN_PARENT } from '../image/layout.js';
import type { ManifestVma } from '../image/manifest.js';
import { addressOf, Mappings, pageOf } from '../image/mappings.js';
import { bytesOf } from '../image/page_spans.js';
import {
  CHUNK_BYTES,
  type PageTable,
  PageTableFault,
  PageTableLoader,
  RECORD_BYTES,
} from '../image/page_table.js';
import { type NewRecord, PageTableBuilder } from '../image/page_table_builder.js';
import type { StoredPages } from '../image/stored_pages.js';
import type { Level } from './level.js';
import { UNKNOWN_MAPPING } from './mappings.js';
import { PE_PARENT, PE_PRESENT } from './names.js';
import { MOST_ENTRIES, type Pagemap } from './pagemap.js';

/** All addresses: what a parent has besides what is asked of it does no harm. */
const EVERYWHERE = new Mappings({ vmas: [{ ...UNKNOWN_MAPPING, start: 0n, end: 2n ** 64n }] });

/** The pagemaps of a level, in the order of its shards. */
export function pagemapsOf({ processes, objects }: Level): Pagemap[] {
  return [...processes.values(), ...objects.values()];
}

/** Where the process and its mappings are to be looked for. */
export interface Place {
  pid: number;
  /** Of the newest level: those below have shared memory without the addresses of it. */
  vmas: readonly ManifestVma[];
  isNewest: boolean;
  hasParent: boolean;
}

/** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` */
export function pageTableOf(level: Level, place: Place): PageTable {
  const { pid, vmas, isNewest, hasParent } = place;
  const builder = new PageTableBuilder();
  for (const record of recordsOf(level, place)) builder.add(record);
  const bytes = builder.finish();
  const shards = pagemapsOf(level).map(({ presentPages: end }) => ({
    bytes: BigInt(bytesOf({ start: 0, end })),
  }));
  const mappings = isNewest ? new Mappings({ vmas }) : EVERYWHERE;
  const loader = new PageTableLoader(mappings, shards, hasParent);
  try {
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      loader.add(bytes.subarray(at, at + CHUNK_BYTES));
    }
  } catch (error) {
    if (!(error instanceof PageTableFault)) throw error;
    const address = new DataView(bytes.buffer, error.offset, RECORD_BYTES).getBigUint64(0, true);
    throw faultOf(level, pid, pageOf(address), error.message);
  }
  return loader.finish();
}

/**
 * Pages that are left to the parent must be in a level below.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`
 */
export function checkHoles(level: Level, pid: number, stored: StoredPages, index: number): void {
  const hole = stored.firstHole(index);
  const table = stored.tables[index];
  if (hole < 0 || table === undefined) return;
  const what = 'pages that are left to the parent, and that no image below has';
  throw faultOf(level, pid, table.startPage(hole), what);
}

/** In the pagemap of the process if it has such a page, else in one of shared memory. */
function faultOf({ dir, processes }: Level, pid: number, page: number, what: string): Error {
  return processes.get(pid)?.fault(page, what) ?? corrupt(dir, 0, what);
}

/** By address. Those of shared memory are there once for each mapping of it. */
function recordsOf(level: Level, { pid, vmas }: Place): NewRecord[] {
  const records: NewRecord[] = [];
  const shards = new Map(pagemapsOf(level).map((pagemap, shard) => [pagemap, shard]));
  const add = (pagemap: Pagemap, shift: number, entries: ReturnType<Pagemap['within']>) => {
    const shard = shards.get(pagemap) ?? 0;
    for (const { start, end, where, offset } of entries) {
      if (records.length > 2 * MOST_ENTRIES) {
        throw pagemap.fault(start, 'more shared memory than can be mapped');
      }
      const pages = { address: addressOf(start + shift), pages: end - start };
      if (where === PE_PRESENT) records.push({ ...pages, shard, offset });
      if (where === PE_PARENT) records.push({ ...pages, shard: IN_PARENT, offset: 0 });
    }
  };
  const own = level.processes.get(pid);
  if (own !== undefined) add(own, 0, own[Symbol.iterator]());
  for (const { start, end, kind, offset, inode } of vmas) {
    const object = kind === 'shared-memory' ? level.objects.get(inode) : undefined;
    if (object === undefined) continue;
    const first = pageOf(offset);
    const span = { start: first, end: first + pageOf(end) - pageOf(start) };
    add(object, pageOf(start) - first, object.within(span));
  }
  return records.sort((a, b) => (a.address < b.address ? -1 : 1));
}
