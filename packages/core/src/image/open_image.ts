/** Opens an image and checks all of it but the page data. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fromNative, SluiceError } from '../errors.js';
import { AddressSpace } from './address_space.js';
import { type Crc32c, nativeCrc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { type ImageFile, openRegular, openSized, readExactly } from './image_file.js';
import { MANIFEST_FILE } from './layout.js';
import type { Manifest, ManifestProcess } from './manifest.js';
import { checkHeader, decodeManifest, HEADER_BYTES } from './manifest_codec.js';
import { Mappings } from './mappings.js';
import {
  CHUNK_BYTES,
  type PageTable,
  PageTableFault,
  PageTableLoader,
  RECORD_BYTES,
} from './page_table.js';
import { Image } from './reader.js';
import { Shards } from './shards.js';

/** For `openImage`. */
export interface OpenImageOptions {
  /** Implementation of CRC32C; that of the addon if not given. */
  crc32c?: Crc32c;
}

/**
 * Opens the image in the directory `dir`. Its manifest, its page tables and the sizes of its shards
 * are checked; the page data is checked as it is read, or by `Image.verify`.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_NOT_FOUND`, `ERR_SLUICE_IMAGE_UNFINISHED`,
 * `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IMAGE_CORRUPT` (with file and offset), `ERR_SLUICE_IO`,
 * `ERR_SLUICE_OPTION`
 */
export async function openImage(dir: string, options: OpenImageOptions = {}): Promise<Image> {
  if (typeof dir !== 'string' || dir === '' || dir.includes('\0')) {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a directory, got ${JSON.stringify(dir)}`);
  }
  const crc32c = options.crc32c ?? nativeCrc32c;
  const manifest = await readManifest(dir, crc32c);
  const shards = await Shards.open(dir, manifest, crc32c);
  try {
    const spaces: AddressSpace[] = [];
    for (const process of manifest.processes) {
      const mappings = new Mappings(process);
      const pageTable = await readPageTable(dir, process, mappings, manifest, crc32c);
      spaces.push(new AddressSpace(process, mappings, pageTable));
    }
    return new Image(dir, manifest, spaces, shards);
  } catch (error) {
    await shards.close();
    throw error;
  }
}

async function readManifest(dir: string, crc32c: Crc32c): Promise<Manifest> {
  const file = await openRegular(join(dir, MANIFEST_FILE)).catch(async (error: unknown) => {
    await checkDirectory(dir);
    throw error;
  });
  if (file === undefined) {
    await checkDirectory(dir);
    throw new SluiceError(
      'ERR_SLUICE_IMAGE_UNFINISHED',
      `${dir} has no ${MANIFEST_FILE}: it is an unfinished image, or none`,
      { file: join(dir, MANIFEST_FILE) },
    );
  }
  try {
    // The head decides whether there is reason to make room for the rest.
    const head = new Uint8Array(Math.min(HEADER_BYTES, file.bytes));
    await readExactly(file, head, 0);
    checkHeader(head, file.bytes, file.path);
    const bytes = new Uint8Array(file.bytes);
    await readExactly(file, bytes, 0);
    return decodeManifest(bytes, file.path, crc32c);
  } finally {
    await file.handle.close();
  }
}

async function checkDirectory(dir: string): Promise<void> {
  let isDirectory = false;
  try {
    isDirectory = (await stat(dir)).isDirectory();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw fromNative(error, { file: dir });
  }
  if (!isDirectory) {
    throw new SluiceError('ERR_SLUICE_IMAGE_NOT_FOUND', `${dir} is no directory`, { file: dir });
  }
}

async function readPageTable(
  dir: string,
  { pageTable: noted, pagesStored }: ManifestProcess,
  mappings: Mappings,
  { shards }: Manifest,
  crc32c: Crc32c,
): Promise<PageTable> {
  const file = await openSized(join(dir, noted.file), noted.entries * RECORD_BYTES);
  try {
    if (noted.crc32c !== (await checksumOf(file, crc32c))) {
      throw corrupt(file.path, 0, 'the checksum of the page table is wrong');
    }
    // Chunk by chunk: room is made only for what has proved to be records.
    const loader = new PageTableLoader(mappings, shards);
    let crc = 0;
    for (let at = 0; at < file.bytes; at += CHUNK_BYTES) {
      const chunk = new Uint8Array(Math.min(CHUNK_BYTES, file.bytes - at));
      await readExactly(file, chunk, at);
      crc = crc32c(chunk, crc);
      loader.add(chunk);
    }
    const pageTable = loader.finish();
    if (crc !== noted.crc32c)
      throw corrupt(file.path, 0, 'the page table changed while it was read');
    if (pageTable.pages !== pagesStored) {
      throw corrupt(file.path, 0, `${pageTable.pages} pages where the manifest has ${pagesStored}`);
    }
    return pageTable;
  } catch (error) {
    if (!(error instanceof PageTableFault)) throw error;
    throw corrupt(file.path, error.offset, error.message, error);
  } finally {
    await file.handle.close();
  }
}

async function checksumOf(file: ImageFile, crc32c: Crc32c): Promise<number> {
  const block = new Uint8Array(Math.min(CHUNK_BYTES, file.bytes));
  let crc = 0;
  for (let at = 0; at < file.bytes; at += block.length) {
    const part = block.subarray(0, Math.min(block.length, file.bytes - at));
    await readExactly(file, part, at);
    crc = crc32c(part, crc);
  }
  return crc;
}
