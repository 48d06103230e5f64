import { SluiceError } from '../errors.js';
import type { AddressSpace, Stretch } from './address_space.js';
import { readBackingFile } from './backing_file.js';
import type { ChainImage } from './chain.js';
import { gather, MOST_GATHERED_BYTES, type ShardRead } from './gather.js';
import type { Manifest, ManifestProcess } from './manifest.js';
import type { PageRun } from './page_table.js';
import { closeShards, type Shards } from './shards.js';
import { type VerifyOptions, type VerifyResult, verifyChain } from './verify.js';

/** Most bytes that one `Image.read` returns; `Image.chunks` has no such bound. */
export const MAX_READ_BYTES = 1024 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;

/**
 * An open image, with the chain of images that it builds on. Get one from `openImage`, and close it:
 * it holds the shards open.
 */
export class Image {
  /** This image, then its parent, and so on. */
  readonly chain: readonly ChainImage[];
  readonly #spaces: ReadonlyMap<number, AddressSpace>;
  readonly #shards: readonly Shards[];
  /** As many as there were reads at once; new ones each time would keep the garbage collector busy. */
  readonly #blocks: Uint8Array[] = [];
  #closed: Promise<void> | undefined;

  /** Only for `openImage`. */
  constructor(
    chain: readonly ChainImage[],
    spaces: readonly AddressSpace[],
    shards: readonly Shards[],
  ) {
    this.chain = chain;
    this.#spaces = new Map(spaces.map((space) => [space.process.pid, space]));
    this.#shards = shards;
  }

  /** Directory of the image, as it was given. */
  get dir(): string {
    return this.#newest.dir;
  }

  /** All that the image says about itself and its processes. */
  get manifest(): Manifest {
    return this.#newest.manifest;
  }

  /** Processes in the image, with their mappings, threads and what was left out. */
  get processes(): readonly ManifestProcess[] {
    return this.manifest.processes;
  }

  /**
   * The stored pages of a process, ascending by address: those that reading takes from the shards of
   * this image or of one below it.
   *
   * @throws SluiceError `ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE`
   */
  runs(pid: number): Iterable<PageRun> {
    return this.#space(pid).runs();
  }

  /**
   * `bytes` bytes (at most `MAX_READ_BYTES`) of the memory of a process from `address` on, as they
   * were when it was dumped. Stored bytes are checked against their checksum first.
   *
   * @throws SluiceError `ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE`, `ERR_SLUICE_NOT_MAPPED`,
   * `ERR_SLUICE_LEFT_OUT`, `ERR_SLUICE_FILE_CHANGED`, `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`,
   * `ERR_SLUICE_OPTION`
   */
  async read(pid: number, address: bigint, bytes: number): Promise<Uint8Array> {
    const space = this.#range(pid, address, bytes);
    if (bytes > MAX_READ_BYTES) {
      throw option(`Expected at most ${MAX_READ_BYTES} bytes, got ${bytes}; chunks() reads more`);
    }
    return this.#fill(space, address, new Uint8Array(bytes));
  }

  /**
   * Where the bytes of whole, mapped pages are, ascending; also of those that cannot be had.
   *
   * @internal
   */
  stretches(pid: number, range: { start: bigint; end: bigint }): Iterable<Stretch> {
    return this.#space(pid).stretches(range);
  }

  /**
   * As `read`, into memory that is there.
   *
   * @internal
   */
  async readInto(pid: number, address: bigint, target: Uint8Array): Promise<void> {
    await this.#fill(this.#space(pid), address, target);
  }

  /**
   * The same bytes as `read`, of any number, in pieces of at most 1 MiB. Whether they are mapped and
   * in the image is known before the first piece comes; a changed file or damaged shard is found on
   * the way.
   *
   * @throws SluiceError as `read` does.
   */
  async *chunks(
    pid: number,
    address: bigint,
    bytes: number,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const space = this.#range(pid, address, bytes);
    for (let done = 0; done < bytes; done += CHUNK_BYTES) {
      const part = new Uint8Array(Math.min(CHUNK_BYTES, bytes - done));
      yield await this.#fill(space, address + BigInt(done), part);
    }
  }

  /**
   * Reads all shards and compares them with their checksums, of this image first and then down the
   * chain; without checksums only their sizes are looked at. The rest was checked on opening.
   *
   * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` with file and offset of the first damaged piece,
   * `ERR_SLUICE_IO`
   * @throws AbortError
   */
  async verify(options: VerifyOptions = {}): Promise<VerifyResult> {
    this.#checkOpen();
    return verifyChain(this.chain, this.#shards, options);
  }

  /** Closes the files; reads that are under way may fail. */
  close(): Promise<void> {
    this.#closed ??= closeShards(this.#shards);
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #fill(space: AddressSpace, address: bigint, target: Uint8Array): Promise<Uint8Array> {
    const segments = [...space.segments(address, target.length)];
    for (const read of gather(segments)) await this.#read(read, target);
    let done = 0;
    for (const segment of segments) {
      const part = target.subarray(done, done + segment.bytes);
      if (segment.from === 'zeros') part.fill(0);
      if (segment.from === 'file') await readBackingFile(segment.file, segment.offset, part);
      done += segment.bytes;
    }
    return target;
  }

  async #read(
    { image, shard, offset, bytes, parts }: ShardRead,
    target: Uint8Array,
  ): Promise<void> {
    const shards = this.#shards[image];
    const [only, ...others] = parts;
    if (only !== undefined && others.length === 0) {
      await shards?.read(shard, offset, target.subarray(only.at, only.at + bytes));
      return;
    }
    const block = this.#blocks.pop() ?? new Uint8Array(MOST_GATHERED_BYTES);
    await shards?.read(shard, offset, block.subarray(0, bytes));
    for (const part of parts) {
      const start = part.offset - offset;
      target.set(block.subarray(start, start + part.bytes), part.at);
    }
    this.#blocks.push(block);
  }

  /** Checks the arguments of a read, and that the bytes are there before room is made for them. */
  #range(pid: number, address: bigint, bytes: number): AddressSpace {
    this.#checkOpen();
    const space = this.#space(pid);
    if (typeof address !== 'bigint' || address < 0n || address >= 2n ** 64n) {
      throw option(`Expected an address as bigint from 0 to 2^64 - 1, got ${address}`);
    }
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw option(`Expected a number of bytes from 0 on, got ${bytes}`);
    }
    for (const _ of space.segments(address, bytes));
    return space;
  }

  get #newest(): ChainImage {
    return this.chain[0] as ChainImage;
  }

  #space(pid: number): AddressSpace {
    const space = this.#spaces.get(pid);
    if (space !== undefined) return space;
    throw new SluiceError(
      'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
      `The image holds process ${[...this.#spaces.keys()].join(', ')}, not ${pid}`,
      { pid },
    );
  }

  #checkOpen(): void {
    if (this.#closed !== undefined) throw option('The image was closed');
  }
}

function option(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_OPTION', message);
}
