import { AbortError } from '../errors.js';
import type { Manifest } from './manifest.js';
import type { Piece, Shards } from './shards.js';

const CONCURRENCY = 4;

export interface VerifyOptions {
  signal?: AbortSignal | undefined;
}

/** What was found to be undamaged. */
export interface VerifyResult {
  shards: number;
  /** Pieces whose checksum is right; 0 with checksum `none`. */
  pieces: number;
  /** Of all shards. */
  bytes: number;
  checksum: 'crc32c' | 'none';
}

/** See `Image.verify`. */
export async function verifyShards(
  shards: Shards,
  manifest: Manifest,
  { signal }: VerifyOptions,
): Promise<VerifyResult> {
  throwIfAborted(signal);
  await shards.checkSizes();
  const pieces = await forEachPiece(shards, (piece) => {
    throwIfAborted(signal);
    return shards.checkPiece(piece);
  });
  return {
    shards: manifest.shards.length,
    pieces,
    bytes: manifest.shards.reduce((sum, { bytes }) => sum + Number(bytes), 0),
    checksum: manifest.checksum,
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

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortError(signal.reason);
}
