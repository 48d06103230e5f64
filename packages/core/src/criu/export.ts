/** Makes a directory for CRIU of an image. */
import { resolve } from 'node:path';
import { fromNative, SluiceError, throwIfAborted } from '../errors.js';
import { createImageDir } from '../image/image_dir.js';
import { PAGE_BYTES } from '../image/layout.js';
import { openImage } from '../image/open_image.js';
import { Image } from '../image/reader.js';
import { isCriuFile } from './names.js';
import { statsOf, uptimeOf } from './round_facts.js';
import { writeCriuDirectory } from './write_directory.js';

/** For `exportImage`. */
export interface ExportOptions {
  /** As what; CRIU's is the only format. Default `criu`. */
  format?: 'criu' | undefined;
  /** Ends it: it rejects with `AbortError`, and nothing is left. */
  signal?: AbortSignal | undefined;
}

/** What an exported directory holds; it can go through `JSON.stringify`. */
export interface ExportResult {
  /** The new directory, as it was given. */
  dir: string;
  format: 'criu';
  /** Pages in its pages files. */
  pages_written: number;
  bytes_written: number;
  /** Images that it was made of. */
  images: number;
}

/** See the function of this name in lazy.ts. */
export async function exportImage(
  source: string | Image,
  dir: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  const { format = 'criu', signal } = options;
  if (format !== 'criu') {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected the format criu, got ${String(format)}`);
  }
  if (typeof dir !== 'string') {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a directory, got ${String(dir)}`);
  }
  throwIfAborted(signal);
  const image = source instanceof Image ? source : await openImage(source);
  try {
    // Absolute, so that it stays the same directory if the program changes its own.
    const output = await createImageDir(dir && resolve(dir), isCriuFile);
    try {
      const { pagesWritten } = await writeCriuDirectory({
        dir: output.dir,
        image,
        uptimeMicroseconds: uptimeOf(image),
        stats: statsOf(image.manifest.rounds.at(-1)),
        signal,
      });
      return {
        dir,
        format,
        pages_written: pagesWritten,
        bytes_written: pagesWritten * PAGE_BYTES,
        images: image.chain.length,
      };
    } catch (error) {
      // What went wrong first is what the caller must learn.
      await output.discard().catch(() => undefined);
      throw fromNative(error, { file: output.dir });
    }
  } finally {
    if (image !== source) await image.close();
  }
}
