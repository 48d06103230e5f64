/** Page tables as Sluice has them, of pagemaps as CRIU has them. */
import { corrupt, hex } from '../image/faults.js';
import { IN_PARENT, PAGE_BYTES } from '../image/layout.js';
import type { ManifestShard, ManifestVma } from '../image/manifest.js';
import { addressOf, Mappings, pageOf } from '../image/mappings.js';
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
import { PE_PARENT, PE_PRESENT, pagesFile } from './names.js';
import type { Pagemap, PagemapEntry } from './pagemap.js';

/** So often the mappings of a process may repeat each entry of an object, on average, */
const MOST_REPEATS = 64;
/** and so many records may come of that anyway: as many as a process usually has mappings. */
const MOST_REPEATED = 65_536;

/** All addresses: what a parent has besides what is asked of it does no harm. */
const EVERYWHERE = new Mappings({ vmas: [{ ...UNKNOWN_MAPPING, start: 0n, end: 2n ** 64n }] });

/** The pagemaps of a level, in the order of its shards. */
function pagemapsOf({ processes, objects }: Level): Pagemap[] {
  return [...processes.values(), ...objects.values()];
}

/** The pages files of a level. */
export function shardsOf(level: Level): ManifestShard[] {
  return pagemapsOf(level).map(({ pagesId, presentPages }) => ({
    file: pagesFile(pagesId),
    bytes: BigInt(presentPages * PAGE_BYTES),
    crcs: new Uint8Array(),
  }));
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
  const mappings = isNewest ? new Mappings({ vmas }) : EVERYWHERE;
  const loader = new PageTableLoader(mappings, shardsOf(level), hasParent);
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

/** Names the entry if it is one of private memory. */
function faultOf({ dir, processes }: Level, pid: number, page: number, what: string): Error {
  const pagemap = processes.get(pid);
  const isOwn = pagemap?.within({ start: page, end: page + 1 }).next().done === false;
  const where = `${what}: ${hex(addressOf(page))}`;
  return isOwn ? pagemap.fault(page, where) : corrupt(pagemap?.path ?? dir, 0, where);
}

/** By address. Those of shared memory are there once for each mapping of it. */
function* recordsOf(level: Level, place: Place): Generator<NewRecord, void, undefined> {
  const { pid, vmas } = place;
  const shards = new Map(pagemapsOf(level).map((pagemap, shard) => [pagemap, shard]));
  const own = level.processes.get(pid);
  const shared = sharedRecords(level, vmas, shards);
  let next = shared.next();
  for (const entry of own === undefined ? [] : privateEntries(own, place)) {
    const record = recordOf(entry, 0, shards.get(own as Pagemap) ?? 0);
    if (record === undefined) continue;
    for (; !next.done && next.value.address < record.address; next = shared.next()) {
      yield next.value;
    }
    yield record;
  }
  for (; !next.done; next = shared.next()) yield next.value;
}

/** Memory that is shared in the newest image may have been private in an older one. */
function* privateEntries(
  own: Pagemap,
  { vmas, isNewest }: Place,
): Generator<PagemapEntry, void, undefined> {
  let start = 0;
  for (const vma of isNewest ? [] : vmas.filter(({ kind }) => kind === 'shared-memory')) {
    yield* own.within({ start, end: pageOf(vma.start) });
    start = pageOf(vma.end);
  }
  yield* own.within({ start, end: Number.POSITIVE_INFINITY });
}

function* sharedRecords(
  level: Level,
  vmas: readonly ManifestVma[],
  shards: ReadonlyMap<Pagemap, number>,
): Generator<NewRecord, void, undefined> {
  const repeated = new Map<Pagemap, number>();
  for (const { start, end, kind, offset, inode } of vmas) {
    const object = kind === 'shared-memory' ? level.objects.get(inode) : undefined;
    if (object === undefined) continue;
    const first = pageOf(offset);
    const span = { start: first, end: first + pageOf(end) - pageOf(start) };
    let records = repeated.get(object) ?? 0;
    for (const entry of object.within(span)) {
      // Each mapping of the object repeats its entries: what is read must bound what is made of it.
      if (records >= MOST_REPEATED + MOST_REPEATS * object.length) {
        throw object.fault(entry.start, 'mapped too often');
      }
      records += 1;
      const record = recordOf(entry, pageOf(start) - first, shards.get(object) ?? 0);
      if (record !== undefined) yield record;
    }
    repeated.set(object, records);
  }
}

/** @param shift From the pages of the pagemap to those of the process. */
function recordOf(entry: PagemapEntry, shift: number, shard: number): NewRecord | undefined {
  const { start, end, where, offset } = entry;
  const pages = { address: addressOf(start + shift), pages: end - start };
  if (where === PE_PRESENT) return { ...pages, shard, offset };
  if (where === PE_PARENT) return { ...pages, shard: IN_PARENT, offset: 0 };
  return undefined;
}
