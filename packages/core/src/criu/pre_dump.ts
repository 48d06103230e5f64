/** One live round that `criu dump` builds on. */
import { resolve } from 'node:path';
import { fromNative, SluiceError, throwIfAborted, withThawed } from '../errors.js';
import { flatRanges } from '../image/address_range.js';
import { createImageDir, openImage } from '../image/index.js';
import { addressOf } from '../image/mappings.js';
import { ProgressMeter } from '../session/dump_run.js';
import { identify } from '../session/identify.js';
import { checkPid, type PreDumpOptions, resolvePreDumpOptions } from '../session/options.js';
import { throughImage } from './dump.js';
import { isCriuFile } from './names.js';
import { checkCriuParent } from './parent.js';
import { writeCriuRound } from './round.js';

/** What a pre-dump did; it can go through `JSON.stringify`. Times are in microseconds. */
export interface PreDumpResult {
  pid: number;
  /** As they were given. */
  images_dir: string;
  prev_images_dir: string | null;
  pages_written: number;
  /** Pages that are left to the parent. */
  pages_skipped_parent: number;
  /** From the first thread interrupted until all stood still. */
  freezing_time: number;
  /** From the first thread stopped until the last one was resumed: the pause that the target saw. */
  frozen_time: number;
  /** Inside the freeze: until it was known which pages were written, and their marks were reset. */
  scan_time: number;
  /** After the freeze: until the last page was written. */
  memwrite_time: number;
  /** From the call until the directory was whole. */
  total_time: number;
  capture: 'vmsplice' | 'read';
  warnings: string[];
}

/** See the function of this name in lazy.ts. */
export async function preDumpProcess(pid: number, options: PreDumpOptions): Promise<PreDumpResult> {
  checkPid(pid);
  const { prevImagesDir, ...resolved } = resolvePreDumpOptions(options);
  const meter = new ProgressMeter();
  const signal = resolved.signal ?? new AbortController().signal;
  try {
    throwIfAborted(signal);
    const { namespacePid, startTimeTicks } = identify(pid);
    const imagesDir = resolve(resolved.dir);
    const known =
      prevImagesDir === undefined
        ? []
        : await checkCriuParent(imagesDir, prevImagesDir, { namespacePid, startTimeTicks });
    const output = await createImageDir(imagesDir, isCriuFile);
    const handOver = {
      known: flatRanges(
        known.map(({ start, end }) => ({ start: addressOf(start), end: addressOf(end) })),
      ),
      only: true,
    };
    const identity = { pid, startTimeTicks };
    const dump = { ...resolved, handOver };
    return await throughImage(output, identity, dump, signal, meter, async (dumped) => {
      const [round] = dumped.captured.rounds;
      await using image = await openImage(round.dir);
      const how = { adopt: true, signal };
      const pages = await writeCriuRound(output.dir, image, round.captured, prevImagesDir, how);
      const { freezing_time, frozen_time, memwrite_time, capture, warnings } = dumped.result;
      return {
        pid,
        images_dir: resolved.dir,
        prev_images_dir: prevImagesDir ?? null,
        pages_written: pages.pagesWritten,
        pages_skipped_parent: pages.pagesInParent,
        freezing_time,
        frozen_time,
        scan_time: Math.round(round.captured.scanUs),
        memwrite_time,
        total_time: Math.round(meter.elapsedMs * 1000),
        capture,
        warnings,
      };
    });
  } catch (error) {
    const failure = withThawed(fromNative(error, { pid }), true);
    throw meter.hasCaptured ? withAdvice(failure) : failure;
  }
}

/** What was written since the last pre-dump is marked no more, and no image has it. */
function withAdvice(error: Error): Error {
  if (!SluiceError.isSluiceError(error)) return error;
  const { code, message, pid, syscall, errno, file, thawed } = error;
  return new SluiceError(
    code,
    `${message}. Nothing may build on an earlier pre-dump any more: begin again without a parent`,
    { pid, syscall, errno, file, thawed, cause: error },
  );
}
