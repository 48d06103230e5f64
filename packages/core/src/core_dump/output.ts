/** Where a core is written to. */
import type { BigIntStats } from 'node:fs';
import { type FileHandle, lstat, open, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Writable } from 'node:stream';
import { AbortError, fromNative, SluiceError } from '../errors.js';
import { notWritable } from '../image/image_dir.js';
import { checkFree, giveName, temporaryName } from './new_file.js';

/** Most bytes of zeros given to a stream at once. */
const ZEROS = new Uint8Array(256 * 1024);

/** So much is given to the disk at once, while more comes. */
const SYNC_BYTES = 64 * 1024 * 1024;

export interface CoreOutput {
  /** Whether bytes must come in the order of their offsets. */
  readonly inOrder: boolean;
  /**
   * Resolves when the bytes were taken. What is never written is zeros.
   *
   * @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`; AbortError
   */
  write(bytes: Uint8Array, offset: number): Promise<void>;
  /**
   * Makes it as long as it should be, and whole to others. Throws as `write`, and `ERR_SLUICE_OUTPUT_EXISTS`.
   */
  finish(bytes: number): Promise<void>;
  /** Leaves nothing of it, finished or not. Never rejects. */
  discard(): Promise<void>;
}

/** A new file with mode 0600, of another name until it is whole. What is not written is a hole. */
export class FileOutput implements CoreOutput {
  readonly inOrder = false;
  readonly #path: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  /** To bring the name to the disk. Open from the start: later would be too late to find that it cannot be. */
  readonly #directory: FileHandle;
  /** The file, once it has its name. */
  #named: BigIntStats | undefined;
  /** Written since the disk was last told to begin. */
  #unsyncedBytes = 0;
  #syncing: Promise<void> | undefined;
  /** The kernel tells of a failure once. */
  #syncError: unknown;

  private constructor(
    path: string,
    temporary: string,
    { handle, directory }: { handle: FileHandle; directory: FileHandle },
  ) {
    this.#path = path;
    this.#temporary = temporary;
    this.#handle = handle;
    this.#directory = directory;
  }

  /** @throws SluiceError as `checkFree`, and `ERR_SLUICE_DISK_FULL` */
  static async create(path: string): Promise<FileOutput> {
    await checkFree(path);
    const temporary = temporaryName(path, 'tmp');
    let directory: FileHandle | undefined;
    try {
      directory = await open(dirname(path), 'r');
      const handle = await open(temporary, 'wx', 0o600);
      return new FileOutput(path, temporary, { handle, directory });
    } catch (error) {
      await directory?.close();
      throw notWritable(error, path);
    }
  }

  /** The name that it has until it is whole. */
  get temporary(): string {
    return this.#temporary;
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    try {
      for (let done = 0; done < bytes.length; ) {
        const left = bytes.length - done;
        const { bytesWritten } = await this.#handle.write(bytes, done, left, offset + done);
        done += bytesWritten;
      }
    } catch (error) {
      throw fromNative(error, { file: this.#path, offset });
    }
    this.#unsyncedBytes += bytes.length;
    if (this.#unsyncedBytes >= SYNC_BYTES) this.startSync();
  }

  async finish(bytes: number): Promise<void> {
    try {
      await this.#syncing;
      if (this.#syncError !== undefined) throw this.#syncError;
      await this.#handle.truncate(bytes);
      await this.#handle.sync();
      const file = await this.#handle.stat({ bigint: true });
      await this.#handle.close();
      const hasTwo = await giveName(this.#temporary, this.#path);
      this.#named = file;
      if (hasTwo) await unlink(this.#temporary);
      await this.#directory.sync();
      await this.#directory.close();
    } catch (error) {
      throw fromNative(error, { file: this.#path });
    }
  }

  /** Begins to bring to the disk what is there. Else the kernel would do so when all is. */
  startSync(): void {
    if (this.#syncing !== undefined) return;
    this.#unsyncedBytes = 0;
    this.#syncing = this.#handle
      .datasync()
      .catch((error: unknown) => {
        this.#syncError ??= error;
      })
      .finally(() => {
        this.#syncing = undefined;
      });
  }

  async discard(): Promise<void> {
    await this.#syncing;
    await this.#handle.close().catch(() => {});
    await this.#directory.close().catch(() => {});
    await unlink(this.#temporary).catch(() => {});
    if (await this.#hasItsName()) await unlink(this.#path).catch(() => {});
  }

  /** Another file may have got it since. */
  async #hasItsName(): Promise<boolean> {
    if (this.#named === undefined) return false;
    const found = await lstat(this.#path, { bigint: true }).catch(() => undefined);
    return found?.dev === this.#named.dev && found.ino === this.#named.ino;
  }
}

/** A stream of the caller, which is not ended. */
export class StreamOutput implements CoreOutput {
  readonly inOrder = true;
  readonly #stream: Writable;
  readonly #signal: AbortSignal | undefined;
  readonly #ignore = (): void => {};
  #written = 0;

  constructor(stream: Writable, signal: AbortSignal | undefined) {
    this.#stream = stream;
    this.#signal = signal;
    // Errors come with each write; without a listener they would end the program.
    stream.on('error', this.#ignore);
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    while (this.#written < offset) {
      await this.#push(ZEROS.subarray(0, Math.min(ZEROS.length, offset - this.#written)));
    }
    await this.#push(bytes);
  }

  async finish(bytes: number): Promise<void> {
    await this.write(new Uint8Array(), bytes);
    this.#stream.off('error', this.#ignore);
  }

  /** What was given away cannot be had back. The error of a write may come as an event later. */
  async discard(): Promise<void> {}

  #push(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const signal = this.#signal;
      // Who reads slowly, or not at all, must not keep us from ending.
      const abort = () => reject(new AbortError(signal?.reason));
      if (signal?.aborted) return abort();
      signal?.addEventListener('abort', abort, { once: true });
      this.#stream.write(bytes, (error) => {
        signal?.removeEventListener('abort', abort);
        this.#written += bytes.length;
        if (error) reject(fromStream(error));
        else resolve();
      });
    });
  }
}

function fromStream(error: Error): Error {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ERR_STREAM_DESTROYED' || code === 'ERR_STREAM_WRITE_AFTER_END') {
    return new SluiceError('ERR_SLUICE_IO', 'The stream for the core was closed', { cause: error });
  }
  return fromNative(error);
}
