import { access, constants, mkdir, readdir, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { leaveBehind } from '@sluice/workers';
import { fromNative, SluiceError } from '../errors.js';
import { isImageFile, isRoundDir, MANIFEST_FILE, MAX_ROUND, roundDir } from './layout.js';
import { syncDirectory } from './writer.js';

/** Long enough for a file system that does not hang any more. */
const HUNG_MS = 1000;

/** An empty directory for an image. */
export interface ImageDir {
  dir: string;
  /** Whether it was not there before. */
  created: boolean;
  /**
   * Removes the files of an image from it, and in the same way its directories of rounds; then the
   * directory itself if it was created and nothing else is in it. Follows no links.
   *
   * @throws SluiceError `ERR_SLUICE_IO`
   */
  discard(): Promise<void>;
  /**
   * Removes only the files of an image from it, for another try.
   *
   * @throws SluiceError `ERR_SLUICE_IO`
   */
  clear(): Promise<void>;
  /** As the function `createRoundDir`, in this directory. */
  createRound(round: number): Promise<ImageDir>;
  /** Its file system hangs: from here on nothing waits for it for long. */
  leave(): void;
  readonly left: boolean;
}

/**
 * Creates the directory of an image with mode 0700, or takes one that is empty.
 *
 * @param isOwn Whether a name is that of a file which may be written to it.
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS` if there is something in it,
 * `ERR_SLUICE_OUTPUT_NOT_WRITABLE` if it is no directory, cannot be created or not be written to,
 * `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_OPTION`
 */
export async function createImageDir(
  dir: string,
  isOwn: (name: string) => boolean = isImageFile,
): Promise<ImageDir> {
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
  return imageDirOf(dir, { created, rounds: true, isOwn });
}

/**
 * Creates the directory of a round in that of its session, with mode 0700. Its name is on the disk
 * when the image of the session is.
 *
 * @param round 1 to `MAX_ROUND`.
 * @param isOwn As for `createImageDir`.
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS` if it is there already, and else as `createImageDir`.
 */
export async function createRoundDir(
  sessionDir: string,
  round: number,
  isOwn: (name: string) => boolean = isImageFile,
): Promise<ImageDir> {
  if (!Number.isSafeInteger(round) || round < 1 || round > MAX_ROUND) {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a round up to ${MAX_ROUND}, got ${round}`);
  }
  const dir = join(sessionDir, roundDir(round));
  try {
    if (!(await makeDirectory(dir))) {
      throw new SluiceError('ERR_SLUICE_OUTPUT_EXISTS', `${dir} is there already`, { file: dir });
    }
  } catch (error) {
    throw notWritable(error, dir);
  }
  return imageDirOf(dir, { created: true, rounds: false, isOwn });
}

interface Discarded {
  created: boolean;
  rounds: boolean;
  isOwn: (name: string) => boolean;
}

/** Waits for something to be removed from a file system, but not for long from one that hangs. */
export async function removed(removing: Promise<void>, left: boolean): Promise<void> {
  if (!left) return removing;
  leaveBehind(removing);
  return Promise.race([removing, sleep(HUNG_MS)]);
}

function imageDirOf(dir: string, what: Discarded): ImageDir {
  let left = false;
  const remove = (files: Discarded) => removed(discard(dir, files), left);
  return {
    dir,
    created: what.created,
    discard: () => remove(what),
    clear: () => remove({ ...what, created: false, rounds: false }),
    leave() {
      left = true;
    },
    get left() {
      return left;
    },
    createRound: (round) => createRoundDir(dir, round),
  };
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

async function discard(dir: string, what: Discarded): Promise<void> {
  try {
    const entries = await readdir(dir, { withFileTypes: true });
    const files = entries.map(({ name }) => name).filter(what.isOwn);
    // The manifest first: as long as it is there, it vouches for the others.
    files.sort((a, b) => Number(b === MANIFEST_FILE) - Number(a === MANIFEST_FILE));
    for (const file of files) await unlink(join(dir, file));
    // A link is no directory here.
    const rounds = entries.filter((entry) => entry.isDirectory() && isRoundDir(entry.name));
    for (const { name } of what.rounds ? rounds : []) {
      await discard(join(dir, name), { ...what, created: true, rounds: false });
    }
    if (what.created) await rmdir(dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY') throw fromNative(error, { file: dir });
  }
}

/** The public error for a place that cannot be written to. */
export function notWritable(error: unknown, dir: string): Error {
  if (SluiceError.isSluiceError(error)) return error;
  const known = fromNative(error, { file: dir });
  // A full disk keeps its own code; for all others it is the place that is wrong.
  if (!SluiceError.isSluiceError(known) || known.code !== 'ERR_SLUICE_IO') return known;
  const { syscall, errno } = known;
  const details = { file: dir, syscall, errno, cause: error };
  return new SluiceError('ERR_SLUICE_OUTPUT_NOT_WRITABLE', known.message, details);
}
