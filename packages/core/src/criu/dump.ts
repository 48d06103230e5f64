/** Dumps whose rounds become directories for CRIU. */
import { join, resolve } from 'node:path';
import { createImageDir, type ImageDir } from '../image/index.js';
import type { TargetIdentity } from '../session/capture.js';
import { type Dumped, dumpInto } from '../session/dump_into.js';
import type { ProgressMeter } from '../session/dump_run.js';
import type { ResolvedDumpOptions } from '../session/options.js';
import type { DumpResult } from '../session/result.js';
import { isCriuFile } from './names.js';
import { writeCriuRounds } from './round.js';

/**
 * The memory of a process as CRIU has it: the final round in the directory, each live one in a directory
 * of its own in it, and a link from each to the one before.
 *
 * @throws `SluiceError`; `AbortError` if `signal` said so. Nothing is left then, and the target runs.
 */
export async function dumpForCriu(
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<DumpResult> {
  const output = await createImageDir(resolve(options.dir), isCriuFile);
  const handOver = { known: new BigUint64Array(), only: false };
  return throughImage(output, identity, { ...options, handOver }, signal, meter, async (dumped) => {
    await writeCriuRounds(output, dumped.captured, signal);
    return dumped.result;
  });
}

/**
 * Dumps into an image in a directory in `output`, has `write` make something else of it, and removes
 * it. A round of CRIU is in one file, in the order of addresses, and with more than one lane nobody knows
 * how many pages come before one as long as they come in. On failure nothing is left of `output` either.
 */
export async function throughImage<Value>(
  output: ImageDir,
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
  write: (dumped: Dumped) => Promise<Value>,
): Promise<Value> {
  let image: ImageDir | undefined;
  let dumped: Dumped | undefined;
  try {
    image = await createImageDir(join(output.dir, 'sluice-image'));
    // It is read once, at once.
    const unchecked = { ...options, checksum: 'none' as const };
    dumped = await dumpInto(image, identity, unchecked, signal, meter);
    const value = await write(dumped);
    await image.discard();
    return value;
  } catch (error) {
    await dumped?.result.held?.resume().catch(() => {});
    if (image?.left) output.leave();
    // What went wrong first is what the caller must learn.
    await image?.discard().catch(() => {});
    await output.discard().catch(() => {});
    throw error;
  }
}
