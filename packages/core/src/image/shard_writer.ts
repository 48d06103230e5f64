import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { fromNative } from '../errors.js';
import type { Crc32c } from './checksum.js';
import { shardFile } from './layout.js';
import type { WriteImageShard } from './writer.js';

/** Writes a shard from its start to its end, and checksums it on the way. */
export class ShardWriter {
  readonly #file: string;
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #pieceBytes: number;
  readonly #crc32c: Crc32c;
  readonly #crcs: number[] = [];
  #bytes = 0;
  /** Of the bytes since the last whole piece. */
  #crc = 0;

  private constructor(
    file: string,
    path: string,
    handle: FileHandle,
    pieceBytes: number,
    crc32c: Crc32c,
  ) {
    this.#file = file;
    this.#path = path;
    this.#handle = handle;
    this.#pieceBytes = pieceBytes;
    this.#crc32c = crc32c;
  }

  /**
   * @param pieceBytes 0 for no checksums.
   * @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`
   */
  static async create(
    dir: string,
    shard: number,
    pieceBytes: number,
    crc32c: Crc32c,
  ): Promise<ShardWriter> {
    const file = shardFile(shard);
    const path = join(dir, file);
    const handle = await open(path, 'wx', 0o600).catch((error: unknown) => {
      throw fromNative(error, { file: path });
    });
    return new ShardWriter(file, path, handle, pieceBytes, crc32c);
  }

  /** @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO` */
  async append(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await this.#handle.write(bytes, done, null, this.#bytes + done);
        done += bytesWritten;
      }
    } catch (error) {
      throw fromNative(error, { file: this.#path, offset: this.#bytes });
    }
    if (this.#pieceBytes > 0) this.#checksum(bytes);
    this.#bytes += bytes.length;
  }

  /**
   * Brings all of it to the disk.
   *
   * @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`
   */
  async finish(): Promise<WriteImageShard> {
    if (this.#pieceBytes > 0 && this.#bytes % this.#pieceBytes > 0) this.#crcs.push(this.#crc);
    try {
      await this.#handle.sync();
    } catch (error) {
      throw fromNative(error, { file: this.#path });
    }
    return { file: this.#file, bytes: this.#bytes, crcs: Uint32Array.from(this.#crcs) };
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  #checksum(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const left = this.#pieceBytes - ((this.#bytes + done) % this.#pieceBytes);
      const part = bytes.subarray(done, done + left);
      this.#crc = this.#crc32c(part, this.#crc);
      done += part.length;
      if (part.length < left) return;
      this.#crcs.push(this.#crc);
      this.#crc = 0;
    }
  }
}
