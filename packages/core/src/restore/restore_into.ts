/** Takes a live process back to what an image of it holds. */
import { readlink } from 'node:fs/promises';
import { addon } from '@sluice/native';
import { leaveBehind } from '@sluice/workers';
import { fromNative, SluiceError, throwIfAborted, withThawed } from '../errors.js';
import { type Image, openImage } from '../image/index.js';
import { identify } from '../session/identify.js';
import {
  checkPid,
  type ResolvedRestoreOptions,
  type RestoreOptions,
  resolveRestoreOptions,
} from '../session/options.js';
import { type RestorableProcess, runRestore } from './restore_run.js';
import { stateWarnings } from './state_changes.js';

/** What a restore did. Times are in microseconds. */
export interface RestoreResult {
  pid: number;
  /** Pages of the image that were written; those of shared memory only if they differed. */
  pages_written: number;
  /** Pages that the process had and the image has not. */
  pages_dropped: number;
  mappings_mapped: number;
  mappings_unmapped: number;
  mappings_protected: number;
  /** Until all threads stood still; part of `frozen_time`. */
  freezing_time: number;
  /** From the first thread stopped to the last one resumed. */
  frozen_time: number;
  /** Of the whole restore, with checking the image. */
  total_time: number;
  warnings: string[];
}

/**
 * Takes a live process back to its image: mappings, every byte of memory, the registers and signal masks
 * of all threads, signal handlers, and where its files stand; it goes on from there. It must be the very
 * process that was dumped, with the same threads, and what it had open then it must have open now.
 * Contents of files, pipes and sockets, pending signals and timers stay as they are now; `warnings` names
 * what may matter. A system call that was interrupted in the freeze of the dump is made again, one with a
 * relative timeout for the whole of it.
 *
 * All that can be checked is checked before the process is stopped, and again before the first change.
 * `signal` ends the restore up to then; once begun, it is brought to its end.
 *
 * It cannot be made safe against a dumper that is killed while it writes, so `force` must be set.
 *
 * @param image Directory of an image, or an open one.
 * @throws `SluiceError`: `ERR_SLUICE_UNSAFE`, `ERR_SLUICE_RESTORE_MISMATCH`, `ERR_SLUICE_FILE_CHANGED` and all else that is
 * found before the first change leave the process as it was; after `ERR_SLUICE_RESTORE_INCOMPLETE` it
 * is half restored. `AbortError`. The process runs again in any case.
 */
export async function restoreInto(
  pid: number,
  image: Image | string,
  options: RestoreOptions = {},
): Promise<RestoreResult> {
  checkPid(pid);
  const resolved = resolveRestoreOptions(options);
  // Callers without types give anything.
  if (typeof image !== 'string' && typeof (image as Partial<Image> | null)?.runs !== 'function') {
    throw new SluiceError('ERR_SLUICE_OPTION', 'Expected an image or the directory of one');
  }
  const { logger } = resolved;
  try {
    const result = await restoreFrom(pid, image, resolved);
    for (const warning of result.warnings) logger?.warn?.({ pid }, warning);
    const { pages_written, frozen_time, total_time } = result;
    logger?.info?.({ pid, pages_written, frozen_time, total_time }, 'restored');
    return result;
  } catch (error) {
    const failure = withThawed(fromNative(error, { pid }), true);
    logger?.error?.({ pid, err: failure }, 'restore failed');
    throw failure;
  }
}

async function restoreFrom(
  pid: number,
  image: Image | string,
  options: ResolvedRestoreOptions,
): Promise<RestoreResult> {
  const startedMs = performance.now();
  throwIfAborted(options.signal);
  const { startTimeTicks } = identify(pid);
  const opened = typeof image === 'string' ? await openImage(image) : undefined;
  let hangs = false;
  try {
    const source = opened ?? (image as Image);
    const wanted = await findProcess(source, pid, startTimeTicks);
    if (!options.force) {
      const message = `A restore of process ${pid} is not safe against a dumper that is killed while it writes`;
      throw new SluiceError('ERR_SLUICE_UNSAFE', message, { pid });
    }
    await source.verify({ signal: options.signal });
    const changes = stateWarnings(wanted.state, addon.processState(pid));
    const { native, warnings } = await runRestore(source, wanted, options);
    return {
      pid,
      pages_written: native.pagesWritten,
      pages_dropped: native.pagesDropped,
      mappings_mapped: native.mappingsMapped,
      mappings_unmapped: native.mappingsUnmapped,
      mappings_protected: native.mappingsProtected,
      freezing_time: Math.round(native.freezingUs),
      frozen_time: Math.round(native.frozenUs),
      total_time: Math.round((performance.now() - startedMs) * 1000),
      warnings: [...changes, ...native.warnings, ...warnings],
    };
  } catch (error) {
    hangs = isOfLimit(error);
    throw error;
  } finally {
    const closed = opened?.close() ?? Promise.resolve();
    if (hangs) leaveBehind(closed);
    else await closed;
  }
}

/** The disk that the image is on may hang. */
function isOfLimit(error: unknown): boolean {
  return (
    SluiceError.isSluiceError(error) &&
    (error.code === 'ERR_SLUICE_FREEZE_LIMIT' || isOfLimit(error.cause))
  );
}

/** The process in the image, if it is the one that has this pid now. */
async function findProcess(
  image: Image,
  pid: number,
  startTimeTicks: bigint,
): Promise<RestorableProcess> {
  if (image.manifest.consistency !== 'frozen') {
    throw new SluiceError(
      'ERR_SLUICE_RESTORE_MISMATCH',
      'The image was taken while the process ran: it is no state that the process ever was in',
      { pid },
    );
  }
  const wanted = image.processes.find((process) => process.pid === pid);
  if (wanted === undefined) {
    const held = image.processes.map((process) => process.pid).join(', ');
    throw new SluiceError(
      'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
      `The image holds process ${held}, not ${pid}`,
      { pid },
    );
  }
  if (wanted.startTimeTicks !== startTimeTicks) {
    throw mismatch(
      pid,
      `it was started ${startTimeTicks} ticks after boot, the one of the image ${wanted.startTimeTicks}`,
    );
  }
  const executable = await readlink(`/proc/${pid}/exe`).catch((cause: unknown) => {
    const message = `Process ${pid} has ended`;
    throw new SluiceError('ERR_SLUICE_TARGET_EXITED', message, { pid, cause });
  });
  if (plainPath(executable) !== plainPath(wanted.executable)) {
    throw mismatch(pid, `it runs ${executable}, and ran ${wanted.executable}`);
  }
  const { state } = wanted;
  if (state === null || wanted.threads.length === 0) {
    throw new SluiceError(
      'ERR_SLUICE_RESTORE_MISMATCH',
      `The image holds only the memory of process ${pid}, not the state of its threads`,
      { pid },
    );
  }
  return { ...wanted, state };
}

function mismatch(pid: number, what: string): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_RESTORE_MISMATCH',
    `Process ${pid} is another one than in the image: ${what}`,
    { pid },
  );
}

function plainPath(path: string): string {
  return path.replace(/ \(deleted\)$/, '');
}
