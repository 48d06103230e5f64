import { SluiceError } from '../errors.js';
import { PAGE_BYTES } from '../image/layout.js';
import { addressOf } from '../image/mappings.js';
import type { Image } from '../image/reader.js';

/** Why an image that is undamaged may not have the bytes of a page. */
const NOT_THERE: readonly string[] = [
  'ERR_SLUICE_NOT_MAPPED',
  'ERR_SLUICE_LEFT_OUT',
  'ERR_SLUICE_FILE_CHANGED',
];

/**
 * The bytes of pages one by one; undefined for those that the image does not have.
 *
 * @param pid Undefined for a process that the image does not have.
 * @throws SluiceError as `Image.read` does, for damage
 */
export async function readPages(
  image: Image,
  pid: number | undefined,
  page: number,
  pages: number,
): Promise<(Uint8Array | undefined)[]> {
  if (pid === undefined) return new Array<undefined>(pages).fill(undefined);
  try {
    const bytes = await image.read(pid, addressOf(page), pages * PAGE_BYTES);
    return Array.from({ length: pages }, (_, i) =>
      bytes.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES),
    );
  } catch (error) {
    if (!SluiceError.isSluiceError(error) || !NOT_THERE.includes(error.code)) throw error;
    if (pages === 1) return [undefined];
  }
  // One page that is not there fails the whole read: look in which half it is.
  const half = Math.ceil(pages / 2);
  return [
    ...(await readPages(image, pid, page, half)),
    ...(await readPages(image, pid, page + half, pages - half)),
  ];
}
