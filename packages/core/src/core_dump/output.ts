/** Where a core is written to. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, lstat, open, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Writable } from 'node:stream';
import { AbortError, fromNative, SluiceError } from '../errors.js';
import { notWritable } from '../image/image_dir.js';
import { syncDirectory } from '../image/writer.js';

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
  /** Makes it as long as it should be, and whole to others. Throws as `write`. */
  finish(bytes: number): Promise<void>;
  /** Leaves nothing of what is not finished. Never rejects. */
  discard(): Promise<void>;
}

/**
 * Refuses a path where something is already.
 *
 * @throws SluiceError `ERR_SLUICE_OUTPUT_EXISTS`, `ERR_SLUICE_OUTPUT_NOT_WRITABLE`
 */
export async function checkFree(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw notWritable(error, path);
  }
  throw new SluiceError('ERR_SLUICE_OUTPUT_EXISTS', `${path} is there already`, { file: path });
}

/** A name for a while, beside the file that will be there. */
export function temporaryName(path: string, what: string): string {
  return `${path}.${randomBytes(6).toString('hex')}.${what}`;
}

/** A new file with mode 0600, of another name until it is whole. What is not written is a hole. */
export class FileOutput implements CoreOutput {
  readonly inOrder = false;
  readonly #path: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  /** Written since the disk was last told to begin. */
  #unsyncedBytes = 0;
  #syncing: Promise<void> | undefined;
  /** The kernel tells of a failure once. */
  #syncError: unknown;

  private constructor(path: string, temporary: string, handle: FileHandle) {
    this.#path = path;
    this.#temporary = temporary;
    this.#handle = handle;
  }

  /** @throws SluiceError as `checkFree`, and `ERR_SLUICE_DISK_FULL` */
  static async create(path: string): Promise<FileOutput> {
    await checkFree(path);
    const temporary = temporaryName(path, 'tmp');
    try {
      return new FileOutput(path, temporary, await open(temporary, 'wx', 0o600));
    } catch (error) {
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
      await this.#handle.close();
      await checkFree(this.#path);
      await rename(this.#temporary, this.#path);
    } catch (error) {
      throw fromNative(error, { file: this.#path });
    }
    await syncDirectory(dirname(this.#path));
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
    await unlink(this.#temporary).catch(() => {});
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
