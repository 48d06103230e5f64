/** The shards of an image, read piece by piece, because a checksum covers a whole piece. */
import { join } from 'node:path';
import type { Crc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { type ImageFile, openSized, readExactly, wrongSize } from './image_file.js';
import type { Manifest } from './manifest.js';
import { PieceCache } from './piece_cache.js';

/** Read at once when a piece is checked without being kept. */
const BLOCK_BYTES = 1024 * 1024;

/** One checksummed part of a shard. */
export interface Piece {
  shard: number;
  index: number;
}

/** Open shards of one image. */
export class Shards {
  readonly #files: readonly ImageFile[];
  readonly #manifest: Manifest;
  readonly #crc32c: Crc32c;
  readonly #cache: PieceCache;

  private constructor(
    files: readonly ImageFile[],
    manifest: Manifest,
    crc32c: Crc32c,
    cache: PieceCache,
  ) {
    this.#files = files;
    this.#manifest = manifest;
    this.#crc32c = crc32c;
    this.#cache = cache;
  }

  /** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` if a shard is missing or has another size. */
  static async open(
    dir: string,
    manifest: Manifest,
    crc32c: Crc32c,
    cache: PieceCache,
  ): Promise<Shards> {
    const files: ImageFile[] = [];
    try {
      for (const { file, bytes } of manifest.shards) {
        files.push(await openSized(join(dir, file), Number(bytes)));
      }
    } catch (error) {
      await closeAll(files);
      throw error;
    }
    return new Shards(files, manifest, crc32c, cache);
  }

  async close(): Promise<void> {
    this.#cache.clear();
    await closeAll(this.#files);
  }

  /**
   * Fills `target` with the bytes of a shard from `offset` on, which must be within it; all were
   * verified if the image has checksums.
   *
   * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
   */
  async read(shard: number, offset: number, target: Uint8Array): Promise<void> {
    const { pieceBytes } = this.#manifest;
    if (pieceBytes === 0) return readExactly(this.#file(shard), target, offset);
    for (let done = 0; done < target.length; ) {
      const from = offset + done;
      const index = Math.floor(from / pieceBytes);
      const piece = await this.#cached({ shard, index });
      const skip = from - index * pieceBytes;
      const part = piece.subarray(skip, skip + target.length - done);
      target.set(part, done);
      done += part.length;
    }
  }

  /** All pieces, in the order of the files; none with checksum `none`. */
  *pieces(): Generator<Piece, void, undefined> {
    const { pieceBytes } = this.#manifest;
    if (pieceBytes === 0) return;
    for (const [shard, { bytes }] of this.#files.entries()) {
      const pieces = Math.ceil(bytes / pieceBytes);
      for (let index = 0; index < pieces; index += 1) yield { shard, index };
    }
  }

  /** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` if a shard does not have its size any more. */
  async checkSizes(): Promise<void> {
    for (const { path, handle, bytes } of this.#files) {
      const { size } = await handle.stat();
      if (size !== bytes) throw wrongSize(path, size, bytes);
    }
  }

  /** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO` */
  async checkPiece(piece: Piece): Promise<void> {
    const file = this.#file(piece.shard);
    const { start, end } = this.#extent(piece);
    const block = new Uint8Array(Math.min(BLOCK_BYTES, end - start));
    let crc = 0;
    for (let at = start; at < end; at += block.length) {
      const part = block.subarray(0, Math.min(block.length, end - at));
      await readExactly(file, part, at);
      crc = this.#crc32c(part, crc);
    }
    this.#checkCrc(piece, crc);
  }

  #cached(piece: Piece): Promise<Uint8Array> {
    const { start, end } = this.#extent(piece);
    const key = `${this.#file(piece.shard).path}:${piece.index}`;
    return this.#cache.get(key, end - start, () => this.#load(piece));
  }

  async #load(piece: Piece): Promise<Uint8Array> {
    const { start, end } = this.#extent(piece);
    const bytes = new Uint8Array(end - start);
    await readExactly(this.#file(piece.shard), bytes, start);
    this.#checkCrc(piece, this.#crc32c(bytes, 0));
    return bytes;
  }

  #checkCrc(piece: Piece, crc: number): void {
    const crcs = this.#manifest.shards[piece.shard]?.crcs ?? new Uint8Array();
    const noted = new DataView(crcs.buffer, crcs.byteOffset, crcs.byteLength);
    if (crc === noted.getUint32(4 * piece.index, true)) return;
    const { start, end } = this.#extent(piece);
    const { path } = this.#file(piece.shard);
    throw corrupt(path, start, `the checksum of the bytes from here to ${end} is wrong`);
  }

  #extent({ shard, index }: Piece): { start: number; end: number } {
    const { pieceBytes } = this.#manifest;
    const start = index * pieceBytes;
    return { start, end: Math.min(start + pieceBytes, this.#file(shard).bytes) };
  }

  #file(shard: number): ImageFile {
    const file = this.#files[shard];
    if (file === undefined) throw new RangeError(`No shard ${shard}`);
    return file;
  }
}

/** Opens those of a whole chain; as `Shards.open`. */
export async function openShards(
  chain: readonly { dir: string; manifest: Manifest }[],
  crc32c: Crc32c,
): Promise<Shards[]> {
  const shards: Shards[] = [];
  const cache = new PieceCache();
  try {
    for (const { dir, manifest } of chain) {
      shards.push(await Shards.open(dir, manifest, crc32c, cache));
    }
    return shards;
  } catch (error) {
    await closeShards(shards);
    throw error;
  }
}

/** Closes those of a whole chain. */
export async function closeShards(shards: readonly Shards[]): Promise<void> {
  await Promise.all(shards.map((each) => each.close()));
}

async function closeAll(files: readonly ImageFile[]): Promise<void> {
  await Promise.all(files.map(({ handle }) => handle.close()));
}
