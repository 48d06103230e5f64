import { throwIfAborted } from '../errors.js';
import type { ChainImage } from './chain.js';
import type { Piece, Shards } from './shards.js';

const CONCURRENCY = 4;

export interface VerifyOptions {
  signal?: AbortSignal | undefined;
}

/** What was found to be undamaged. */
export interface VerifyResult {
  /** The image itself and those below it. */
  images: number;
  /** Of all images, as the rest. */
  shards: number;
  /** Pieces whose checksum is right; 0 with checksum `none`. */
  pieces: number;
  /** Of all shards. */
  bytes: number;
  /** `none` if any image has none. */
  checksum: 'crc32c' | 'none';
}

/** See `Image.verify`. */
export async function verifyChain(
  chain: readonly ChainImage[],
  shards: readonly Shards[],
  { signal }: VerifyOptions,
): Promise<VerifyResult> {
  let pieces = 0;
  for (const image of shards) {
    throwIfAborted(signal);
    await image.checkSizes();
    pieces += await forEachPiece(image, (piece) => {
      throwIfAborted(signal);
      return image.checkPiece(piece);
    });
  }
  const manifests = chain.map(({ manifest }) => manifest);
  const files = manifests.flatMap((manifest) => manifest.shards);
  return {
    images: chain.length,
    shards: files.length,
    pieces,
    bytes: files.reduce((sum, { bytes }) => sum + Number(bytes), 0),
    checksum: manifests.every(({ checksum }) => checksum === 'crc32c') ? 'crc32c' : 'none',
  };
}

/**
 * Checks a few pieces at a time. They are begun in order and each that was begun is awaited, so that
 * of several failures the first in the order of the files is thrown.
 */
async function forEachPiece(
  shards: Shards,
  check: (piece: Piece) => Promise<void>,
): Promise<number> {
  const pieces = shards.pieces();
  let begun = 0;
  const failures: { order: number; error: unknown }[] = [];
  const work = async (): Promise<void> => {
    while (failures.length === 0) {
      const next = pieces.next();
      if (next.done === true) return;
      const order = begun;
      begun += 1;
      try {
        await check(next.value);
      } catch (error) {
        failures.push({ order, error });
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  const [first] = failures.sort((a, b) => a.order - b.order);
  if (first !== undefined) throw first.error;
  return begun;
}
