/**
 * Opens CRIU's images as those of Sluice: a manifest and page tables are made of what they say, and
 * the pages files are the shards.
 */
import { join } from 'node:path';
import { AddressSpace } from '../image/address_space.js';
import type { ChainImage } from '../image/chain.js';
import type { Crc32c } from '../image/checksum.js';
import { PAGE_BYTES } from '../image/layout.js';
import type { Manifest, ManifestLeftOut, ManifestProcess } from '../image/manifest.js';
import { addressOf } from '../image/mappings.js';
import type { PageTable } from '../image/page_table.js';
import { PieceCache } from '../image/piece_cache.js';
import { closeShards, Shards } from '../image/shards.js';
import { StoredPages } from '../image/stored_pages.js';
import type { Level } from './level.js';
import { mappingsOf, readMappings } from './mappings.js';
import { mmFile, PARENT_LINK, PE_LAZY, pagemapFile, pagesFile } from './names.js';
import { checkHoles, pagemapsOf, pageTableOf } from './page_tables.js';
import type { Pagemap } from './pagemap.js';

/** CRIU has no sessions. */
const SESSION = '0'.repeat(32);

/** As `OpenedChain`. */
interface OpenedLevels {
  chain: ChainImage[];
  spaces: AddressSpace[];
  shards: Shards[];
}

/**
 * @param levels Newest first, at least one.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` (with file and offset), `ERR_SLUICE_IO`
 */
export async function openLevels(levels: readonly Level[], crc32c: Crc32c): Promise<OpenedLevels> {
  const processes = levels.map((): ManifestProcess[] => []);
  const spaces: AddressSpace[] = [];
  for (const [pid, pagemap] of levels[0]?.processes ?? []) {
    const mm = join(levels[0]?.dir ?? '', mmFile(pid));
    const vmas = (await readMappings(mm)) ?? mappingsOf(pagemap);
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
  return { chain, spaces, shards: await openPages(chain, crc32c) };
}

async function openPages(chain: readonly ChainImage[], crc32c: Crc32c): Promise<Shards[]> {
  const shards: Shards[] = [];
  const cache = new PieceCache();
  try {
    for (const { dir, manifest } of chain) {
      shards.push(await Shards.open(dir, manifest, crc32c, cache));
    }
    return shards;
  } catch (error) {
    await closeShards(shards);
    throw error;
  }
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
    leftOut: [],
    pageTable: { file: pagemapFile(pid), entries: table.entries, crc32c: 0 },
    pagesStored: table.pagesStored,
    pagesInParent: table.pagesInParent,
  };
}

/** @param levels That of the manifest, and those below it. */
function manifestOf(levels: readonly Level[], processes: ManifestProcess[]): Manifest {
  const [level] = levels as [Level];
  const shards = pagemapsOf(level).map(({ pagesId, presentPages }) => ({
    file: pagesFile(pagesId),
    bytes: BigInt(presentPages * PAGE_BYTES),
    crcs: new Uint8Array(),
  }));
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
