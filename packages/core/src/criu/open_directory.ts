/**
 * Opens CRIU's images as those of Sluice: a manifest and page tables are made of what they say, and
 * the pages files are the shards.
 */
import { join } from 'node:path';
import { AddressSpace } from '../image/address_space.js';
import type { Crc32c } from '../image/checksum.js';
import { corrupt } from '../image/faults.js';
import { PAGE_BYTES } from '../image/layout.js';
import type { Manifest, ManifestLeftOut, ManifestProcess } from '../image/manifest.js';
import { addressOf } from '../image/mappings.js';
import type { OpenedChain } from '../image/open_image.js';
import type { PageTable } from '../image/page_table.js';
import { openShards } from '../image/shards.js';
import { StoredPages } from '../image/stored_pages.js';
import type { Level } from './level.js';
import { mappingsOf, readMappings } from './mappings.js';
import { Memfds } from './memfds.js';
import { INVENTORY_FILE, mmFile, PARENT_LINK, PE_LAZY, pagemapFile } from './names.js';
import { checkHoles, pageTableOf, shardsOf } from './page_tables.js';
import type { Pagemap } from './pagemap.js';

/** CRIU has no sessions. */
const SESSION = '0'.repeat(32);

/**
 * @param levels Newest first, at least one.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` (with file and offset), `ERR_SLUICE_IO`
 */
export async function openLevels(levels: readonly Level[], crc32c: Crc32c): Promise<OpenedChain> {
  const processes = levels.map((): ManifestProcess[] => []);
  const spaces: AddressSpace[] = [];
  const dir = levels[0]?.dir ?? '';
  if (levels[0]?.processes.size === 0) {
    throw corrupt(join(dir, INVENTORY_FILE), 0, 'there is no pagemap of any process beside it');
  }
  const memfds = new Memfds(dir);
  for (const [pid, pagemap] of levels[0]?.processes ?? []) {
    const vmas = (await readMappings(join(dir, mmFile(pid)), memfds)) ?? mappingsOf(pagemap);
    const tables = levels.map((level, i) => {
      const hasParent = i + 1 < levels.length;
      return pageTableOf(level, { pid, vmas, isNewest: i === 0, hasParent });
    });
    const stored = new StoredPages(tables);
    levels.forEach((level, i) => {
      checkHoles(level, pid, stored, i);
    });
    const leftOut = lazyPages(pagemap);
    const process = { ...processOf(pid, tables[0] as PageTable), vmas, leftOut };
    spaces.push(new AddressSpace(process, stored, true));
    processes.forEach((list, i) => {
      list.push(i === 0 ? process : processOf(pid, tables[i] as PageTable));
    });
  }
  const chain = levels.map(({ dir }, i) => ({
    dir,
    manifest: manifestOf(levels.slice(i), processes[i] ?? []),
  }));
  return { chain, spaces, shards: await openShards(chain, crc32c) };
}

/** Pages that CRIU left to a server, and that are in no file. */
function lazyPages(pagemap: Pagemap): ManifestLeftOut[] {
  return [...pagemap]
    .filter(({ where }) => where === PE_LAZY)
    .map(({ start, end }) => ({
      start: addressOf(start),
      end: addressOf(end),
      reason: 'lazy pages, which CRIU left to a page server',
    }));
}

/** What pagemaps do not say is empty or zero. */
function processOf(pid: number, table: PageTable): ManifestProcess {
  return {
    pid,
    namespacePid: pid,
    name: '',
    commandLine: [],
    executable: '',
    startTimeTicks: 0n,
    vmas: [],
    threads: [],
    state: null,
    leftOut: [],
    pageTable: { file: pagemapFile(pid), entries: table.entries, crc32c: 0 },
    pagesStored: table.pagesStored,
    pagesInParent: table.pagesInParent,
  };
}

/** @param levels That of the manifest, and those below it. */
function manifestOf(levels: readonly Level[], processes: ManifestProcess[]): Manifest {
  const [level] = levels as [Level];
  const shards = shardsOf(level);
  const pages = shards.reduce((sum, { bytes }) => sum + Number(bytes) / PAGE_BYTES, 0);
  return {
    producer: { name: 'CRIU', version: `img_version ${level.inventory?.imgVersion ?? 'unknown'}` },
    createdNs: level.modifiedNs,
    kernel: { release: 'unknown', machine: 'unknown' },
    pageSizeBytes: PAGE_BYTES,
    consistency: 'frozen',
    session: SESSION,
    round: levels.length,
    parent: levels.length > 1 ? PARENT_LINK : null,
    capture: 'read',
    checksum: 'none',
    pieceBytes: 0,
    shards,
    processes,
    rounds: [{ kind: 'final', pagesWritten: pages, bytesWritten: pages * PAGE_BYTES, times: {} }],
  };
}
