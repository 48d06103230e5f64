/** One dump from the empty directory to the published image. */
import { resolve } from 'node:path';
import { traceDump } from '../diagnostics.js';
import { fromNative, throwIfAborted, withThawed } from '../errors.js';
import { createImageDir } from '../image/index.js';
import type { TargetIdentity } from './capture.js';
import { dumpInto } from './dump_into.js';
import type { ProgressMeter } from './dump_run.js';
import type { ResolvedDumpOptions } from './options.js';
import type { DumpResult } from './result.js';

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
  throwIfAborted(signal);
  if (options.format === 'criu') {
    const { dumpForCriu } = await import('../criu/dump.js');
    return dumpForCriu(identity, options, signal, meter);
  }
  // Absolute, so that it stays the same directory if the program changes its own.
  const imageDir = await createImageDir(resolve(options.dir));
  const { result } = await dumpInto(imageDir, identity, options, signal, meter);
  return result;
}
