/** The order of a restore: everything that can fail first, then the changes, then the bytes. */
import { addon, type NativeRestoreResult } from '@sluice/native';
import { createLoner, type PinnedWorker } from '@sluice/workers';
import { AbortError, fromNative, SluiceError, throwIfAborted } from '../errors.js';
import { type AddressRange, flatRanges, rangesOf } from '../image/address_range.js';
import type { Image } from '../image/index.js';
import type { ManifestProcess, ManifestState } from '../image/manifest.js';
import type { ResolvedRestoreOptions } from '../session/options.js';
import { overlaps, readRanges, storedRanges } from './ranges.js';

/** Between looks whether the limit of the freeze has passed. */
const LOOK_MS = 250;

/** A process in an image, with all that a restore needs. */
export type RestorableProcess = ManifestProcess & { state: ManifestState };

export interface RestoreOutcome {
  native: NativeRestoreResult;
  /** From detaching. */
  warnings: string[];
}

/**
 * Restores one process. Whatever happens, it runs and is rid of the helper when this comes back.
 *
 * @throws `SluiceError`; `AbortError` if `signal` said so before anything was changed.
 */
export async function runRestore(
  image: Image,
  wanted: RestorableProcess,
  { shared, freezeTimeoutMs, freezeLimitMs, signal }: ResolvedRestoreOptions,
): Promise<RestoreOutcome> {
  const { pid, startTimeTicks, vmas, threads } = wanted;
  const { signalActions, ignoredSignals, descriptors } = wanted.state;
  const stored = storedRanges(image.runs(pid));
  throwIfAborted(signal);
  const handle = addon.restoreOpen({
    pid,
    startTimeTicks,
    vmas,
    threads,
    signalActions,
    ignoredSignals,
    descriptors,
    shared,
    stored: flatRanges(stored),
    leftOut: flatRanges(wanted.leftOut),
    freezeTimeoutMs,
    freezeLimitMs,
  });
  const cancel = () => addon.restoreCancel(handle);
  signal?.addEventListener('abort', cancel, { once: true });
  process.on('exit', cancel);
  try {
    const warnings = await onWorker(handle, async (worker) => {
      try {
        await worker.call('restoreAttach', handle);
        await worker.call('restoreCheck', handle);
        throwIfAborted(signal);
        const fixed = await worker.call('restoreFreeze', handle);
        await withinLimit(handle, pid, checkFixed(image, wanted, stored, fixed, worker, handle));
        throwIfAborted(signal);
      } catch (error) {
        throw isCancelled(error) && signal?.aborted ? new AbortError(signal.reason) : error;
      }
      await worker.call('restoreApply', handle);
      try {
        await withinLimit(handle, pid, writePages(image, pid, stored, worker, handle));
        await worker.call('restoreFinish', handle);
      } catch (error) {
        throw incomplete(pid, error);
      }
      await worker.call('restoreThaw', handle);
    });
    return { native: addon.restoreResult(handle), warnings };
  } finally {
    process.removeListener('exit', cancel);
    signal?.removeEventListener('abort', cancel);
    addon.restoreClose(handle);
  }
}

/** Runs `work` on a thread of its own, detaches, and returns the warnings of that. */
async function onWorker(
  handle: number,
  work: (worker: PinnedWorker) => Promise<void>,
): Promise<string[]> {
  const loner = createLoner('restore');
  const { worker } = loner;
  const detach = () =>
    worker
      .call('restoreDetach', handle)
      .catch((error: unknown) => [`Detaching did not end cleanly: ${fromNative(error).message}`]);
  try {
    await worker.ready();
    try {
      await work(worker);
    } catch (error) {
      await detach();
      throw error;
    }
    return await detach();
  } finally {
    await loner.close();
  }
}

/** What cannot be written must be as it was; so far nothing has been changed. */
async function checkFixed(
  image: Image,
  { pid, vmas }: ManifestProcess,
  stored: readonly AddressRange[],
  fixed: BigUint64Array,
  worker: PinnedWorker,
  handle: number,
): Promise<void> {
  for (const { start, end } of overlaps(stored, rangesOf(fixed))) {
    let at = start;
    for await (const bytes of image.chunks(pid, start, Number(end - start))) {
      if (!(await worker.call('restoreHolds', handle, at, bytes))) {
        const path = vmas.find((vma) => vma.start <= at && vma.end > at)?.path ?? '';
        throw new SluiceError(
          'ERR_SLUICE_RESTORE_MISMATCH',
          `The bytes from 0x${at.toString(16)} on (${path}) are not as they were, and cannot be written`,
          { pid },
        );
      }
      at += BigInt(bytes.length);
    }
  }
}

/** The disk that the image is on may hang: then the process goes on, and nobody waits for the pages. */
async function withinLimit<Value>(
  handle: number,
  pid: number,
  work: Promise<Value>,
): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<never>((_, reject) => {
    const look = () => {
      if (!addon.restoreLimitPassed(handle)) return;
      const message = `Process ${pid} stood frozen for too long without being restored, and runs again`;
      reject(new SluiceError('ERR_SLUICE_FREEZE_LIMIT', message, { pid }));
    };
    timer = setInterval(look, LOOK_MS);
  });
  try {
    return await Promise.race([work, passed]);
  } finally {
    clearInterval(timer);
  }
}

/** Reads the next pages while the last ones are written. */
async function writePages(
  image: Image,
  pid: number,
  stored: readonly AddressRange[],
  worker: PinnedWorker,
  handle: number,
): Promise<void> {
  let writing: Promise<void> = Promise.resolve();
  for await (const { ranges, bytes } of readRanges(image, pid, stored)) {
    await writing;
    writing = worker.call('restoreWrite', handle, flatRanges(ranges), bytes);
    // It is awaited later; a failure until then is no unhandled one.
    writing.catch(() => {});
  }
  await writing;
}

function incomplete(pid: number, cause: unknown): Error {
  const error = fromNative(cause, { pid });
  const code = SluiceError.isSluiceError(error) ? error.code : undefined;
  if (code === 'ERR_SLUICE_RESTORE_INCOMPLETE' || code === 'ERR_SLUICE_TARGET_EXITED') return error;
  return new SluiceError(
    'ERR_SLUICE_RESTORE_INCOMPLETE',
    `Process ${pid} is half restored: ${error.message}`,
    { pid, cause: error },
  );
}

function isCancelled(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'ERR_SLUICE_CANCELLED';
}
