import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fromNative, SluiceError } from '../errors.js';
import type { Crc32c } from './checksum.js';
import { openRegular, readExactly } from './image_file.js';
import { MANIFEST_FILE } from './layout.js';
import type { Manifest } from './manifest.js';
import { checkHeader, decodeManifest, HEADER_BYTES } from './manifest_codec.js';

/** For `readManifest`. */
export interface ReadManifestOptions {
  crc32c: Crc32c;
  /** Bytes that the file may have. */
  most: number;
  /** What else must hold of it; throws `ManifestFault`. */
  checkMore: (manifest: Manifest) => void;
}

/**
 * Reads and checks the manifest of the image in `dir`.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_NOT_FOUND`, `ERR_SLUICE_IMAGE_UNFINISHED`,
 * `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function readManifest(
  dir: string,
  { crc32c, most, checkMore }: ReadManifestOptions,
): Promise<{ manifest: Manifest; bytes: number }> {
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
    checkHeader(head, file.bytes, file.path, most);
    const bytes = new Uint8Array(file.bytes);
    await readExactly(file, bytes, 0);
    return { manifest: decodeManifest(bytes, file.path, crc32c, checkMore), bytes: file.bytes };
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
