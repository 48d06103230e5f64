/** A dump into a directory that is there: what all formats have in common. */
import { throwIfAborted } from '../errors.js';
import { type ImageDir, writeImage } from '../image/index.js';
import { type Captured, captureTarget, type TargetIdentity } from './capture.js';
import type { ProgressMeter } from './dump_run.js';
import type { HeldSession } from './held.js';
import type { ResolvedDumpOptions } from './options.js';
import type { DumpResult } from './result.js';
import { imagesOf, summarize } from './summary.js';

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
    throwIfAborted(signal);
    meter.enter('publish');
    for (const image of imagesOf(captured, identity.pid, options)) {
      // The last one makes all of it valid: for a target that goes on already it would be a lie.
      await held?.check();
      await writeImage(image);
    }
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
