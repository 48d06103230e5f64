/** One dump from the empty directory to the published image. */
import { resolve } from 'node:path';
import { traceDump } from '../diagnostics.js';
import { AbortError, fromNative, withThawed } from '../errors.js';
import { createImageDir, type ImageDir, writeImage } from '../image/index.js';
import { type Captured, captureTarget, type TargetIdentity } from './capture.js';
import type { ProgressMeter } from './dump_run.js';
import type { HeldSession } from './held.js';
import type { ResolvedDumpOptions } from './options.js';
import type { DumpResult } from './result.js';
import { imagesOf, summarize } from './summary.js';

/**
 * Dumps a process. On failure the directory is as it was before, and the target runs.
 *
 * @throws `SluiceError`; `AbortError` if `signal` said so.
 */
export function performDump(
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<DumpResult> {
  const { pid } = identity;
  const { dir, logger } = options;
  return traceDump({ pid, dir }, async () => {
    try {
      const result = await dump(identity, options, signal, meter);
      for (const warning of result.warnings) logger?.warn?.({ pid, dir }, warning);
      const { pages_written, frozen_time, total_time } = result;
      logger?.info?.({ pid, dir, pages_written, frozen_time, total_time }, 'dumped');
      return result;
    } catch (error) {
      // An error that says nothing about it is one of before or after the freeze.
      const failure = withThawed(fromNative(error, { pid }), true);
      logger?.error?.({ pid, dir, err: failure }, 'dump failed');
      throw failure;
    }
  });
}

async function dump(
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<DumpResult> {
  checkAbort(signal);
  // Absolute, so that it stays the same directory if the program changes its own.
  const imageDir = await createImageDir(resolve(options.dir));
  const { result } = await dumpInto(imageDir, identity, options, signal, meter);
  return result;
}

/** What came of a dump, for those who make something else of it. */
export interface Dumped {
  captured: Captured;
  result: DumpResult;
}

/**
 * Dumps a process into a directory that was made for it. On failure nothing is left of that, and the
 * target runs.
 *
 * @throws `SluiceError`; `AbortError` if `signal` said so.
 */
export async function dumpInto(
  imageDir: ImageDir,
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<Dumped> {
  let held: HeldSession | undefined;
  try {
    const captured = await captureTarget(identity, imageDir, options, signal, meter);
    held = captured.held;
    checkAbort(signal);
    meter.enter('publish');
    for (const image of imagesOf(captured, identity.pid, options)) await writeImage(image);
    return { captured, result: summarize(captured, identity.pid, options, meter.elapsedMs) };
  } catch (error) {
    await held?.release('resume').catch(() => {});
    await discard(imageDir, options);
    throw error;
  }
}

/** What went wrong first is what the caller must learn; so this never throws. */
async function discard(imageDir: ImageDir, { dir, logger }: ResolvedDumpOptions): Promise<void> {
  try {
    await imageDir.discard();
  } catch (err) {
    logger?.warn?.({ dir, err }, 'files of the failed dump could not be removed');
  }
}

function checkAbort(signal: AbortSignal): void {
  if (signal.aborted) throw new AbortError(signal.reason);
}
