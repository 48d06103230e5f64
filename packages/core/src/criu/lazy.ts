/**
 * CRIU's images for those who may not need them: the definitions of their messages take longer to load
 * than all the rest of this package together.
 */
import type { Image } from '../image/reader.js';
import type { PreDumpOptions } from '../session/options.js';
import type { ExportOptions, ExportResult } from './export.js';
import type { PreDumpResult } from './pre_dump.js';

/**
 * Writes the stored pages of an image and its chain as a directory that `criu dump --track-mem` takes
 * with `--prev-images-dir`: pages of private mappings, and of anonymous memory that is shared.
 *
 * @param source An image, or its directory.
 * @param dir Directory for the new images. Must not exist, or be empty.
 * @throws SluiceError as `openImage` and `Image.read` do for what is read;
 * `ERR_SLUICE_OUTPUT_EXISTS`, `ERR_SLUICE_OUTPUT_NOT_WRITABLE`, `ERR_SLUICE_DISK_FULL`,
 * `ERR_SLUICE_IO`, `ERR_SLUICE_OPTION`. Then nothing of the new directory is left.
 * @throws AbortError
 */
export async function exportImage(
  source: string | Image,
  dir: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  return (await import('./export.js')).exportImage(source, dir, options);
}

/**
 * Takes the memory of a process while it runs, for `criu dump --track-mem --prev-images-dir` or another
 * pre-dump to build on, like `criu pre-dump`: under a short freeze it notes which pages were written, and
 * resets their soft-dirty bits; then the process goes on, and the pages are taken. Memory that is shared
 * is left to the final dump. Nothing of this is left in the process.
 *
 * @throws `SluiceError`: `ERR_SLUICE_TRACKER_UNAVAILABLE` on a kernel without soft-dirty bits,
 * `ERR_SLUICE_PARENT` for a parent that CRIU would not take or that is not of this process, and what
 * `dumpProcess` throws; `AbortError` if `signal` said so. Then the process runs, and nothing is left of the
 * new directory. Once the bits were reset, the next pre-dump has to do without a parent; the message says
 * so.
 */
export async function preDumpProcess(pid: number, options: PreDumpOptions): Promise<PreDumpResult> {
  return (await import('./pre_dump.js')).preDumpProcess(pid, options);
}
