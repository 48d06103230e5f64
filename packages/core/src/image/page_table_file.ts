import { join } from 'node:path';
import type { Crc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { type ImageFile, openSized, readExactly } from './image_file.js';
import { type Manifest, type ManifestProcess, mayLeaveToParent } from './manifest.js';
import type { Mappings } from './mappings.js';
import {
  CHUNK_BYTES,
  type PageTable,
  PageTableFault,
  PageTableLoader,
  RECORD_BYTES,
} from './page_table.js';

/**
 * Reads and checks the page table of a process.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function readPageTable(
  dir: string,
  process: ManifestProcess,
  mappings: Mappings,
  manifest: Manifest,
  crc32c: Crc32c,
): Promise<PageTable> {
  const { pageTable: noted } = process;
  const file = await openSized(join(dir, noted.file), noted.entries * RECORD_BYTES);
  try {
    if (noted.crc32c !== (await checksumOf(file, crc32c))) {
      throw corrupt(file.path, 0, 'the checksum of the page table is wrong');
    }
    // Chunk by chunk: room is made only for what has proved to be records.
    const loader = new PageTableLoader(mappings, manifest.shards, mayLeaveToParent(manifest));
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
    for (const name of ['pagesStored', 'pagesInParent'] as const) {
      if (pageTable[name] === process[name]) continue;
      const what = `${name} is ${pageTable[name]} pages where the manifest has ${process[name]}`;
      throw corrupt(file.path, 0, what);
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
