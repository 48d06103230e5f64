import { type FileHandle, open } from 'node:fs/promises';
import { fromNative } from '../errors.js';

const BUFFER_BYTES = 1024 * 1024;

/** Writes a new file with mode 0600 from its start to its end, small pieces together. */
export class FileWriter {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  #buffered = 0;
  #written = 0;

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  /** @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO` */
  static async create(path: string): Promise<FileWriter> {
    const handle = await open(path, 'wx', 0o600).catch((error: unknown) => {
      throw fromNative(error, { file: path });
    });
    return new FileWriter(path, handle);
  }

  /** @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO` */
  async append(bytes: Uint8Array): Promise<void> {
    if (this.#buffered + bytes.length > BUFFER_BYTES) await this.#flush();
    if (bytes.length >= BUFFER_BYTES) {
      await this.#write(bytes);
      return;
    }
    this.#buffer.set(bytes, this.#buffered);
    this.#buffered += bytes.length;
  }

  /**
   * Brings all of it to the disk.
   *
   * @throws SluiceError `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`
   */
  async finish(): Promise<void> {
    await this.#flush();
    await this.#handle.sync().catch((error: unknown) => {
      throw fromNative(error, { file: this.path });
    });
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #flush(): Promise<void> {
    await this.#write(this.#buffer.subarray(0, this.#buffered));
    this.#buffered = 0;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await this.#handle.write(bytes, done);
        done += bytesWritten;
        this.#written += bytesWritten;
      }
    } catch (error) {
      throw fromNative(error, { file: this.path, offset: this.#written });
    }
  }
}
