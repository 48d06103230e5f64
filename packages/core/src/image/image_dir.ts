import { access, constants, mkdir, readdir, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fromNative, SluiceError } from '../errors.js';
import { isImageFile, MANIFEST_FILE } from './layout.js';
import { syncDirectory } from './writer.js';

/** An empty directory for an image. */
export interface ImageDir {
  /** Whether it was not there before. */
  created: boolean;
  /**
   * Removes the files of an image from it, and the directory itself if it was created and nothing
   * else is in it.
   *
   * @throws SluiceError `ERR_SLUICE_IO`
   */
  discard(): Promise<void>;
}

/**
 * Creates the directory of an image with mode 0700, or takes one that is empty.
 *
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS` if there is something in it,
 * `ERR_SLUICE_OUTPUT_NOT_WRITABLE` if it is no directory, cannot be created or not be written to,
 * `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_OPTION`
 */
export async function createImageDir(dir: string): Promise<ImageDir> {
  if (typeof dir !== 'string' || dir === '' || dir.includes('\0')) {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a directory, got ${JSON.stringify(dir)}`);
  }
  let created = false;
  try {
    created = await makeDirectory(dir);
    if (created) await syncDirectory(dirname(dir)).catch(() => undefined);
    else await checkUsable(dir);
  } catch (error) {
    throw notWritable(error, dir);
  }
  return { created, discard: () => discard(dir, created) };
}

/** Returns false if there is something of this name already. */
async function makeDirectory(dir: string): Promise<boolean> {
  try {
    await mkdir(dir, { mode: 0o700 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function checkUsable(dir: string): Promise<void> {
  if (!(await stat(dir)).isDirectory()) {
    const message = `${dir} is not a directory`;
    throw new SluiceError('ERR_SLUICE_OUTPUT_NOT_WRITABLE', message, { file: dir });
  }
  const [entry] = await readdir(dir);
  if (entry !== undefined) {
    const message = `${dir} is not empty: it holds ${JSON.stringify(entry)}`;
    throw new SluiceError('ERR_SLUICE_OUTPUT_EXISTS', message, { file: dir });
  }
  await access(dir, constants.W_OK | constants.X_OK);
}

async function discard(dir: string, created: boolean): Promise<void> {
  try {
    const files = (await readdir(dir)).filter(isImageFile);
    // The manifest first: as long as it is there, it vouches for the others.
    files.sort((a, b) => Number(b === MANIFEST_FILE) - Number(a === MANIFEST_FILE));
    for (const file of files) await unlink(join(dir, file));
    if (created) await rmdir(dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY') throw fromNative(error, { file: dir });
  }
}

function notWritable(error: unknown, dir: string): Error {
  if (SluiceError.isSluiceError(error)) return error;
  const known = fromNative(error, { file: dir });
  // A full disk keeps its own code; for all others it is the place that is wrong.
  if (!SluiceError.isSluiceError(known) || known.code !== 'ERR_SLUICE_IO') return known;
  const { syscall, errno } = known;
  const details = { file: dir, syscall, errno, cause: error };
  return new SluiceError('ERR_SLUICE_OUTPUT_NOT_WRITABLE', known.message, details);
}
