/** Uses an image in every way there is, and looks whether a hostile one does more than fail. */
import { realpathSync } from 'node:fs';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { Writable } from 'node:stream';
import {
  diffImages,
  exportImage,
  flattenImage,
  openImage,
  SluiceError,
  type SluiceErrorCode,
  writeCore,
} from '@sluice/core';
import { expect } from 'vitest';
import { renderImage } from '../../packages/cli/dist/views/image.js';
import { reportImage } from '../../packages/cli/dist/views/image_report.js';
import { TempDir } from './temp.js';

/** What may be said of an image, hostile or not. */
const ANSWERS: readonly SluiceErrorCode[] = [
  'ERR_SLUICE_IMAGE_NOT_FOUND',
  'ERR_SLUICE_IMAGE_UNFINISHED',
  'ERR_SLUICE_IMAGE_VERSION',
  'ERR_SLUICE_IMAGE_CORRUPT',
  'ERR_SLUICE_NOT_MAPPED',
  'ERR_SLUICE_LEFT_OUT',
  'ERR_SLUICE_FILE_CHANGED',
  'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
  'ERR_SLUICE_NO_THREADS',
];
/** Of which the place in a file is told. */
const WITH_PLACE: readonly SluiceErrorCode[] = ['ERR_SLUICE_IMAGE_CORRUPT'];
/** Processor time that nothing small takes, even under a profiler. */
const MOST_CPU_MS = 10_000;
/** Memory that a hostile image may make this process take, with what the garbage collector leaves. */
const MOST_GROWTH_KIB = 192 * 1024;
/** Bytes that one read takes of a stretch, and stretches that are read. */
const READ_BYTES = 64 * 1024;
const READS = 16;
const MOST_CORE_BYTES = 32 * 1024 * 1024;

export interface Uses {
  /** Without it only the image is opened, verified and read, which is quicker. */
  everything?: boolean;
  /** A sound image, to compare with. */
  sound: string;
}

/** The code of what opening or reading ended with; undefined if nothing failed. */
export async function useImage(dir: string, uses: Uses): Promise<SluiceErrorCode | undefined> {
  const before = process.cpuUsage();
  const peakKib = process.resourceUsage().maxRSS;
  const answer = await useInTurn(dir, uses);
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000).toBeLessThan(MOST_CPU_MS);
  expect(process.resourceUsage().maxRSS - peakKib).toBeLessThan(MOST_GROWTH_KIB);
  return answer;
}

async function useInTurn(dir: string, uses: Uses): Promise<SluiceErrorCode | undefined> {
  const first = await answerOf(readAll(dir));
  if (!uses.everything) return first;
  await using out = new TempDir();
  await answerOf(diffImages(dir, uses.sound));
  await answerOf(flattenImage(dir, { dir: out.join('flat') }));
  await answerOf(exportImage(dir, out.join('criu')));
  await answerOf(writeCore(dir, { out: new Sink() }), [SINK_FULL]);
  return first;
}

async function readAll(dir: string): Promise<void> {
  await using image = await openImage(dir);
  const text = renderImage(reportImage(image), 80);
  // Names in an image must not command the terminal.
  expect(/(?!\n)\p{Cc}/u.test(text)).toBe(false);
  await image.verify();
  for (const { pid, vmas } of image.processes) {
    let reads = 0;
    for (const { address, pages } of image.runs(pid)) {
      expect(pages).toBeGreaterThan(0);
      if (++reads <= READS) await image.read(pid, address, Math.min(READ_BYTES, pages * 4096));
    }
    for (const { start, end } of vmas.slice(0, READS)) {
      const bytes = Math.min(READ_BYTES, Number(end - start));
      await answerOf(image.read(pid, start, bytes));
      for await (const piece of image.chunks(pid, end - BigInt(bytes), 0)) expect(piece).toBeNull();
    }
  }
}

async function answerOf(
  work: Promise<unknown>,
  also: readonly unknown[] = [],
): Promise<SluiceErrorCode | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (!SluiceError.isSluiceError(error)) throw error;
    if (also.includes(error.cause)) return undefined;
    expect(ANSWERS, `${error.stack}`).toContain(error.code);
    if (WITH_PLACE.includes(error.code)) {
      expect(error.file, error.stack).toBeTypeOf('string');
      expect(error.offset, error.stack).toBeTypeOf('number');
    }
    return error.code;
  }
}

const SINK_FULL = new Error('The core is larger than the test wants to see');

/** A core may be as large as what was mapped; its begin is enough. */
class Sink extends Writable {
  #bytes = 0;

  override _write(chunk: Uint8Array, _: string, done: (error?: Error) => void): void {
    this.#bytes += chunk.length;
    done(this.#bytes > MOST_CORE_BYTES ? SINK_FULL : undefined);
  }
}

type Opener = (path: unknown, ...rest: unknown[]) => Promise<unknown>;

/**
 * Notes which files are opened until the end of its scope, as seen from the module
 * that the product calls.
 */
export class OpenedFiles implements Disposable {
  readonly #names = ['open', 'readFile'] as const;
  readonly #promises = createRequire(import.meta.url)('node:fs').promises as Record<string, Opener>;
  readonly #originals = new Map<string, Opener>();
  readonly #paths = new Set<string>();

  constructor() {
    for (const name of this.#names) {
      const original = this.#promises[name] as Opener;
      this.#originals.set(name, original);
      this.#promises[name] = async (path, ...rest) => {
        const opened = await original.call(this.#promises, path, ...rest);
        this.#paths.add(realpathSync(String(path)));
        return opened;
      };
    }
    syncBuiltinESMExports();
  }

  /** Those that neither begin with one of `starts`, with links followed, nor are among `files`. */
  outside(starts: readonly string[], files: ReadonlySet<string>): string[] {
    return [...this.#paths].filter(
      (path) => !files.has(path) && !starts.some((start) => path.startsWith(start)),
    );
  }

  [Symbol.dispose](): void {
    for (const [name, original] of this.#originals) this.#promises[name] = original;
    syncBuiltinESMExports();
  }
}
