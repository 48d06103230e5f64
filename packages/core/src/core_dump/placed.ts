/**
 * A core whose pages are in its file already, each at its place. What is left is to find segments in
 * them, to copy what is elsewhere (in mapped files, or at the place of another address), to take out
 * what does not belong to it, and to write headers and notes.
 */
import { basename, dirname, resolve } from 'node:path';
import type { SessionPlaces } from '@sluice/native';
import { throwIfAborted } from '../errors.js';
import { rangesOf } from '../image/address_range.js';
import { type ImageDir, removed } from '../image/image_dir.js';
import { PAGE_BYTES } from '../image/layout.js';
import type { Image } from '../image/reader.js';
import { openUnwritten } from '../image/unwritten.js';
import {
  type Captured,
  captureTarget,
  type PlacedPages,
  type TargetIdentity,
} from '../session/capture.js';
import { ProgressMeter } from '../session/dump_run.js';
import type { PlacedFile, ResolvedDumpOptions } from '../session/options.js';
import type { DumpResult } from '../session/result.js';
import { finalImageOf, summarize } from '../session/summary.js';
import { endsOf, type PlacedSegment } from './elf.js';
import { notesOf } from './notes.js';
import { FileOutput } from './output.js';
import { type CoreSegment, planSegments } from './segments.js';
import {
  type CoreResult,
  copy,
  PIECE_BYTES,
  type Piece,
  resultOf,
  stoppedProcess,
} from './write.js';

export interface PlacedCoreOptions {
  /** As it was given. */
  out: string;
  filter: number;
  signal: AbortSignal;
}

/** A core, and the dump that made it. */
export interface DumpedCore {
  core: CoreResult;
  dump: DumpResult;
}

/**
 * Dumps a process into a core that does not exist yet. On failure nothing is left of it, and the process
 * runs.
 *
 * @param beforeRound Is waited for before each live round, from 1 on. Tests only.
 * @throws SluiceError as `dumpProcess` and `writeCore` do; AbortError
 */
export async function dumpIntoCore(
  identity: TargetIdentity,
  options: PlacedCoreOptions,
  dump: ResolvedDumpOptions,
  beforeRound?: (round: number) => Promise<void>,
): Promise<DumpedCore> {
  const { pid } = identity;
  const meter = new ProgressMeter();
  const output = await FileOutput.create(resolve(options.out));
  const file = output.temporary;
  const dir = noImageDir(dirname(file), beforeRound);
  const made: CoreResult[] = [];
  const complete: PlacedFile['complete'] = async (captured, pages) => {
    const image = await openPlaced(captured, pid, dump, file, pages.places.end);
    try {
      made.push(await completeCore(image, pages, output, options));
    } finally {
      await image.close();
    }
  };
  try {
    // The header of the core has the first page.
    const afterRound = () => output.startSync();
    const place: PlacedFile = { file, from: PAGE_BYTES, afterRound, complete };
    const placed = { ...dump, durable: false, placed: place };
    const captured = await captureTarget(identity, dir, placed, options.signal, meter);
    const [core] = made as [CoreResult];
    return { core, dump: summarize(captured, pid, dump, meter.elapsedMs) };
  } catch (error) {
    await removed(output.discard(), dir.left);
    throw error;
  }
}

/** Nothing is made in it, so there is nothing to remove. */
function noImageDir(dir: string, beforeRound?: (round: number) => Promise<void>): ImageDir {
  const nothing = async (): Promise<void> => {};
  let left = false;
  const none: ImageDir = {
    dir,
    created: false,
    discard: nothing,
    clear: nothing,
    async createRound(round) {
      await beforeRound?.(round);
      return none;
    },
    leave() {
      left = true;
    },
    get left() {
      return left;
    },
  };
  return none;
}

/** The process as an image of it would have it, with that file for a shard. */
function openPlaced(
  captured: Captured,
  pid: number,
  dump: ResolvedDumpOptions,
  file: string,
  bytes: number,
): Promise<Image> {
  const image = finalImageOf(captured, pid, dump);
  const shards = [{ file: basename(file), bytes, crcs: new Uint32Array() }];
  return openUnwritten({ ...image, dir: dirname(file), parent: null, shards });
}

async function completeCore(
  image: Image,
  { places, clearAllBut }: PlacedPages,
  output: FileOutput,
  { out, filter, signal }: PlacedCoreOptions,
): Promise<CoreResult> {
  const startedMs = performance.now();
  const { process, state } = stoppedProcess(image, undefined);
  const { pid } = process;
  const { segments, leftOut } = await planSegments(image, process, filter);
  const { placed, end } = placeSegments(segments, places);
  const { pieces, kept, keptBytes } = partsOf(image, pid, placed);
  await copy(pieces.values(), image, pid, output, signal);
  await clearAllBut(BigUint64Array.from(kept, BigInt));
  const { header, tables } = endsOf(placed, notesOf(process, state), end);
  await output.write(tables, end);
  await output.write(header, 0);
  throwIfAborted(signal);
  const bytes = end + tables.length;
  await output.finish(bytes);
  return resultOf(process, { out, filter, bytes, bytesWritten: keptBytes, leftOut, startedMs });
}

/**
 * Cuts segments where places end, so that the bytes of each are together in the file; what has no
 * place gets one at the end. Pure.
 *
 * @returns Segments, ascending by address, and the end of the last place.
 */
export function placeSegments(
  segments: readonly CoreSegment[],
  { ranges, offsets, end: placesEnd }: SessionPlaces,
): { placed: PlacedSegment[]; end: number } {
  const extents = rangesOf(ranges);
  const placed: PlacedSegment[] = [];
  let end = placesEnd;
  let next = 0;
  for (const segment of segments) {
    const first = placed.length;
    for (let { start } = segment; start < segment.storedEnd; ) {
      while (next < extents.length && (extents[next]?.end ?? 0n) <= start) next += 1;
      const extent = extents[next];
      const isPlaced = extent !== undefined && extent.start <= start;
      const stop = isPlaced ? extent.end : (extent?.start ?? segment.storedEnd);
      let { storedEnd } = segment;
      if (stop < storedEnd) storedEnd = stop;
      const offset = isPlaced ? (offsets[next] ?? 0) + Number(start - extent.start) : end;
      if (!isPlaced) end += Number(storedEnd - start);
      const last = placed.length > first ? placed.at(-1) : undefined;
      if (last !== undefined && last.offset + Number(start - last.start) === offset) {
        last.end = last.storedEnd = storedEnd;
      } else {
        placed.push({ ...segment, start, end: storedEnd, storedEnd, offset });
      }
      start = storedEnd;
    }
    const last = placed.length > first ? placed.at(-1) : undefined;
    if (last === undefined) placed.push({ ...segment, offset: end });
    else last.end = segment.end;
  }
  return { placed, end };
}

interface Parts {
  /** What is to be copied to where it belongs. */
  pieces: Piece[];
  /** Of the file, start and end by turns: all that is not just zeros. */
  kept: number[];
  /** Bytes of those. */
  keptBytes: number;
}

function partsOf(image: Image, pid: number, segments: readonly PlacedSegment[]): Parts {
  const parts: Parts = { pieces: [], kept: [], keptBytes: 0 };
  for (const { start, storedEnd, offset } of segments) {
    for (const stretch of image.stretches(pid, { start, end: storedEnd })) {
      const { source } = stretch;
      if (source.from === 'zeros') continue;
      const place = offset + Number(stretch.start - start);
      const bytes = Number(stretch.end - stretch.start);
      parts.kept.push(place, place + bytes);
      parts.keptBytes += bytes;
      if (source.from === 'shard' && source.offset === place) continue;
      for (let done = 0; done < bytes; done += PIECE_BYTES) {
        const address = stretch.start + BigInt(done);
        const piece = { address, bytes: Math.min(PIECE_BYTES, bytes - done), offset: place + done };
        parts.pieces.push(piece);
      }
    }
  }
  return parts;
}
