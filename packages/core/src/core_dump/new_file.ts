/** Names of a file that comes to be: it has its own when it is whole, and nothing else loses it. */
import { randomBytes } from 'node:crypto';
import { link, lstat, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import { SluiceError } from '../errors.js';
import { notWritable } from '../image/image_dir.js';

/** Of the name that a temporary one begins with: it must fit wherever the name itself does. */
const MOST_BASE_BYTES = 64;

/** What file systems without hard links say, and security modules that allow none. */
const NO_LINKS = ['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/**
 * Refuses a path where something is already.
 *
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS`, `ERR_SLUICE_OUTPUT_NOT_WRITABLE`
 */
export async function checkFree(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw notWritable(error, path);
  }
  throw taken(path);
}

/** A name for a while, beside the file that will be there. */
export function temporaryName(path: string, what: string): string {
  const name = Buffer.from(basename(path));
  // Of a character that is cut in two it leaves the rest out.
  const base = new StringDecoder('utf8').write(name.subarray(0, MOST_BASE_BYTES));
  return join(dirname(path), `${base}.${randomBytes(6).toString('hex')}.${what}`);
}

/**
 * Gives a file its name, whatever comes there at the same instant. (Where there are no hard links, what
 * comes between two calls of this is overwritten.)
 *
 * @returns Whether it has its temporary name as well.
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS`; what the file system says
 */
export async function giveName(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') throw taken(path, error);
    if (!NO_LINKS.includes(codeOf(error))) throw error;
  }
  await checkFree(path);
  await rename(temporary, path);
  return false;
}

function taken(path: string, cause?: unknown): SluiceError {
  const message = `${path} is there already`;
  return new SluiceError('ERR_SLUICE_OUTPUT_EXISTS', message, { file: path, cause });
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}
