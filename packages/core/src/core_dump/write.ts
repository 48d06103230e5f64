/** Makes an ELF core of an image. */
import { join, resolve } from 'node:path';
import { fromNative, SluiceError, throwIfAborted } from '../errors.js';
import { corrupt, hex } from '../image/faults.js';
import { MANIFEST_FILE } from '../image/layout.js';
import type { ManifestLeftOut, ManifestProcess, ManifestState } from '../image/manifest.js';
import { openImage } from '../image/open_image.js';
import type { Image } from '../image/reader.js';
import type { Logger } from '../session/options.js';
import type { DumpResult, LeftOut } from '../session/result.js';
import { REGISTERS_BYTES } from './arch_x86_64.js';
import { layOut } from './elf.js';
import { DEFAULT_FILTER } from './filter.js';
import { notesOf } from './notes.js';
import { type CoreOptions, resolveCoreOptions } from './options.js';
import { type CoreOutput, FileOutput, StreamOutput } from './output.js';
import { filledPieces, planSegments } from './segments.js';

/** Bytes copied at once, and copies under way at once. */
export const PIECE_BYTES = 1024 * 1024;
const COPIES = 4;

/** What a core holds; it can go through `JSON.stringify`. Times are in microseconds. */
export interface CoreResult {
  pid: number;
  /** As it was given; null for a stream. */
  out: string | null;
  threads: number;
  mappings: number;
  /** Bits of core(5) that it was made with. */
  filter: number;
  /** Of the whole file, with its holes; a core of a live process has more of them. */
  core_bytes: number;
  /** Bytes of memory in it that are no holes. */
  bytes_written: number;
  /** What the filter wanted and the image cannot give. */
  left_out: LeftOut[];
  /** From the image, or the last page, to the core on the disk, or in the hands of the stream. */
  write_time: number;
  /** Of a live process: the dump that the core was made of. */
  dump: Omit<DumpResult, 'dir' | 'held'> | null;
}

/**
 * Writes a core of a process in an image, with all its threads, for debuggers. It takes memory for page
 * tables and a few pieces of shards, not for pages. Until it is whole it has another name.
 *
 * @param source An image, or its directory.
 * @throws SluiceError `ERR_SLUICE_NO_THREADS` for an image that was taken while the process ran, and for
 * one of CRIU; as `openImage` and `Image.read` do for what is read; `ERR_SLUICE_OUTPUT_EXISTS`,
 * `ERR_SLUICE_OUTPUT_NOT_WRITABLE`, `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`, `ERR_SLUICE_OPTION`. Then
 * nothing is left.
 * @throws AbortError
 */
export async function writeCore(source: string | Image, options: CoreOptions): Promise<CoreResult> {
  const resolved = resolveCoreOptions(options);
  // Callers without types give anything.
  if (typeof source !== 'string' && typeof (source as Partial<Image> | null)?.runs !== 'function') {
    throw new SluiceError('ERR_SLUICE_OPTION', 'Expected an image or the directory of one');
  }
  throwIfAborted(resolved.signal);
  const opened = typeof source === 'string' ? await openImage(source) : undefined;
  try {
    const result = await writeTo(opened ?? (source as Image), resolved);
    logWritten(result, resolved.logger);
    return result;
  } finally {
    await opened?.close();
  }
}

async function writeTo(image: Image, options: CoreOptions): Promise<CoreResult> {
  const startedMs = performance.now();
  const { out, filter = DEFAULT_FILTER, signal } = options;
  const { process, state } = stoppedProcess(image, options.pid);
  const { pid } = process;
  const output = await outputOf(out, signal);
  try {
    const { segments, leftOut } = await planSegments(image, process, filter);
    const { head, offsets, bytes } = layOut(segments, notesOf(process, state));
    function* pieces(): Generator<Piece> {
      for (const [i, segment] of segments.entries()) {
        for (const piece of filledPieces(image, pid, segment, PIECE_BYTES)) {
          yield { ...piece, offset: (offsets[i] ?? 0) + Number(piece.address - segment.start) };
        }
      }
    }
    await output.write(head, 0);
    const bytesWritten = await copy(pieces(), image, pid, output, signal);
    await output.finish(bytes);
    return resultOf(process, { out, filter, bytes, bytesWritten, leftOut, startedMs });
  } catch (error) {
    await output.discard();
    throw fromNative(error);
  }
}

export function logWritten(result: CoreResult, logger: Logger | undefined): void {
  const { pid, out, core_bytes, write_time } = result;
  logger?.info?.({ pid, out, core_bytes, write_time }, 'core written');
}

/**
 * The process that a core is to be made of, with its threads.
 *
 * @throws SluiceError as `writeCore`.
 */
export function stoppedProcess(
  image: Image,
  asked: number | undefined,
): { process: ManifestProcess; state: ManifestState } {
  const process = processOf(image, asked);
  const { pid, threads, state } = process;
  if (state === null || threads.length === 0) {
    const message = `The image in ${image.dir} holds no threads of process ${pid}`;
    throw new SluiceError('ERR_SLUICE_NO_THREADS', message, { pid, file: image.dir });
  }
  if (threads.some(({ registers }) => registers.length !== REGISTERS_BYTES)) {
    const what = `registers of threads that are not ${REGISTERS_BYTES} bytes, as those of x86-64 are`;
    throw corrupt(join(image.dir, MANIFEST_FILE), 0, what);
  }
  return { process, state };
}

/** What is known of a core when it is there. */
export interface WrittenCore {
  out: CoreOptions['out'];
  filter: number;
  bytes: number;
  bytesWritten: number;
  leftOut: readonly ManifestLeftOut[];
  startedMs: number;
}

export function resultOf(
  { pid, threads, vmas }: ManifestProcess,
  { out, filter, bytes, bytesWritten, leftOut, startedMs }: WrittenCore,
): CoreResult {
  return {
    pid,
    out: typeof out === 'string' ? out : null,
    threads: threads.length,
    mappings: vmas.length,
    filter,
    core_bytes: bytes,
    bytes_written: bytesWritten,
    left_out: leftOut.map(({ start, end, reason }) => ({
      start: hex(start),
      end: hex(end),
      reason,
    })),
    write_time: Math.round((performance.now() - startedMs) * 1000),
    dump: null,
  };
}

function processOf({ processes, dir }: Image, pid: number | undefined): ManifestProcess {
  const [only, ...others] = processes.filter((each) => pid === undefined || each.pid === pid);
  if (only !== undefined && others.length === 0) return only;
  const pids = processes.map((each) => each.pid).join(', ');
  if (only !== undefined) {
    const message = `The image holds processes ${pids}: expected the pid of one of them`;
    throw new SluiceError('ERR_SLUICE_OPTION', message, { file: dir });
  }
  const message = `The image holds process ${pids}, not ${pid}`;
  throw new SluiceError('ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE', message, { pid, file: dir });
}

function outputOf(out: CoreOptions['out'], signal: AbortSignal | undefined): Promise<CoreOutput> {
  // Absolute, so that it stays the same file if the program changes its directory.
  if (typeof out === 'string') return FileOutput.create(resolve(out));
  return Promise.resolve(new StreamOutput(out, signal));
}

/** Bytes of memory, and where they go in the core. */
export interface Piece {
  address: bigint;
  /** At most `PIECE_BYTES`. */
  bytes: number;
  offset: number;
}

/** Some at a time, each in a buffer of its own. Returns the bytes copied. */
export async function copy(
  pieces: Iterator<Piece>,
  image: Image,
  pid: number,
  output: CoreOutput,
  signal: AbortSignal | undefined,
): Promise<number> {
  let bytesCopied = 0;
  let failed = false;
  let before: Promise<unknown> = Promise.resolve();

  async function worker(): Promise<void> {
    const buffer = new Uint8Array(PIECE_BYTES);
    for (let next = pieces.next(); !next.done && !failed; next = pieces.next()) {
      throwIfAborted(signal);
      const { address, bytes, offset } = next.value;
      const part = buffer.subarray(0, bytes);
      const turn = before;
      const step = image.readInto(pid, address, part).then(async () => {
        if (output.inOrder) await turn;
        await output.write(part, offset);
      });
      before = step;
      await step;
      bytesCopied += bytes;
    }
  }

  const workers = Array.from({ length: COPIES }, () =>
    worker().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  // No buffer and no file is used any more when this ends.
  await Promise.allSettled(workers);
  await Promise.all(workers);
  return bytesCopied;
}
