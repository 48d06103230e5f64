/** Opens an image with all that it builds on, and checks all of it but the page data. */
import { join } from 'node:path';
import { isCriuDirectory } from '../criu/directory.js';
import { SluiceError } from '../errors.js';
import { AddressSpace } from './address_space.js';
import { type ChainImage, readChain } from './chain.js';
import { type Crc32c, nativeCrc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { pageTableFile } from './layout.js';
import type { ManifestProcess } from './manifest.js';
import { Mappings } from './mappings.js';
import { type PageTable, RECORD_BYTES } from './page_table.js';
import { readPageTable } from './page_table_file.js';
import { Image } from './reader.js';
import { closeShards, openShards, type Shards } from './shards.js';
import { StoredPages } from './stored_pages.js';

/** For `openImage`. */
export interface OpenImageOptions {
  /** Implementation of CRC32C; that of the addon if not given. */
  crc32c?: Crc32c;
}

/**
 * Opens the image in the directory `dir`, and the chain of images that it builds on. Manifests, page
 * tables and the sizes of shards are checked; the page data is checked as it is read, or by
 * `Image.verify`. It may also be a directory of CRIU's images, see docs/criu.md.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_NOT_FOUND`, `ERR_SLUICE_IMAGE_UNFINISHED`,
 * `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IMAGE_CORRUPT` (with file and offset), `ERR_SLUICE_IO`,
 * `ERR_SLUICE_OPTION`
 */
export async function openImage(dir: string, options: OpenImageOptions = {}): Promise<Image> {
  const { chain, spaces, shards } = await openChain(dir, options.crc32c ?? nativeCrc32c);
  return new Image(chain, spaces, shards);
}

/** An open image and those below it, newest first. */
export interface OpenedChain {
  chain: ChainImage[];
  /** Of the newest image. */
  spaces: AddressSpace[];
  /** Of each image. To be closed. */
  shards: Shards[];
}

/** As `openImage`, for those who need the parts. */
export async function openChain(dir: string, crc32c: Crc32c): Promise<OpenedChain> {
  if (typeof dir !== 'string' || dir === '' || dir.includes('\0')) {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a directory, got ${JSON.stringify(dir)}`);
  }
  if (await isCriuDirectory(dir)) {
    const { readLevels } = await import('../criu/levels.js');
    const { openLevels } = await import('../criu/open_directory.js');
    return openLevels(await readLevels(dir), crc32c);
  }
  const chain = await readChain(dir, crc32c);
  const shards = await openShards(chain, crc32c);
  try {
    const spaces: AddressSpace[] = [];
    for (const process of chain[0]?.manifest.processes ?? []) {
      const stored = await readStoredPages(chain, process.pid, crc32c);
      const complete = chain[0]?.manifest.consistency === 'frozen';
      spaces.push(new AddressSpace(process, stored, complete));
    }
    return { chain, spaces, shards };
  } catch (error) {
    await closeShards(shards);
    throw error;
  }
}

/** The page tables of one process, checked alone and together. */
async function readStoredPages(
  chain: readonly ChainImage[],
  pid: number,
  crc32c: Crc32c,
): Promise<StoredPages> {
  const tables: PageTable[] = [];
  for (const { dir, manifest } of chain) {
    // All images of a chain have the same processes.
    const process = manifest.processes.find((each) => each.pid === pid) as ManifestProcess;
    tables.push(await readPageTable(dir, process, new Mappings(process), manifest, crc32c));
  }
  const stored = new StoredPages(tables);
  chain.forEach(({ dir }, image) => {
    const hole = stored.firstHole(image);
    if (hole < 0) return;
    const what = 'pages that are left to the parent, and that no image below has';
    throw corrupt(join(dir, pageTableFile(pid)), hole * RECORD_BYTES, what);
  });
  return stored;
}
