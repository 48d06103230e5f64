/** Makes one image of a chain of images. */
import { resolve } from 'node:path';
import { fromNative, SluiceError, throwIfAborted } from '../errors.js';
import { type Crc32c, nativeCrc32c } from './checksum.js';
import { FlattenPlan } from './flatten_plan.js';
import { createImageDir } from './image_dir.js';
import { PAGE_BYTES } from './layout.js';
import { type OpenedChain, openChain } from './open_image.js';
import { PageTableBuilder } from './page_table_builder.js';
import { ShardWriter } from './shard_writer.js';
import { closeShards } from './shards.js';
import { type WriteImageShard, writeImage } from './writer.js';

/** Bytes copied at once. */
const BLOCK_BYTES = 1024 * 1024;
/** Bytes of a shard under one checksum, as in a dump. */
const PIECE_BYTES = 1024 * 1024;

/** For `flattenImage`. Only `dir` has no default. */
export interface FlattenOptions {
  /** Directory for the new image. Must not exist, or be empty. */
  dir: string;
  /** Checksum of its shards. Default `crc32c`. */
  checksum?: 'crc32c' | 'none' | undefined;
  /** Ends it: it rejects with `AbortError`, and nothing is left. */
  signal?: AbortSignal | undefined;
  /** Implementation of CRC32C; that of the addon if not given. */
  crc32c?: Crc32c | undefined;
}

/** What a flattened image holds; it can go through `JSON.stringify`. */
export interface FlattenResult {
  /** The directory of the new image, as it was given. */
  dir: string;
  /** Pages stored in its shards. */
  pages_written: number;
  /** Bytes of all shards. */
  bytes_written: number;
  /** Images that it was made of. */
  images: number;
}

/**
 * Writes one image without a parent that reads as the image in `dir` does with its chain. Pages are
 * checked against their checksums as they are copied, and stored once however often they are mapped.
 * Memory is taken for page tables and a few pieces of shards, not for pages.
 *
 * @throws SluiceError as `openImage` and `Image.read` do for what is read;
 * `ERR_SLUICE_OUTPUT_EXISTS`, `ERR_SLUICE_OUTPUT_NOT_WRITABLE`, `ERR_SLUICE_DISK_FULL`,
 * `ERR_SLUICE_IO`, `ERR_SLUICE_OPTION`. Then nothing of the new image is left.
 * @throws AbortError
 */
export async function flattenImage(dir: string, options: FlattenOptions): Promise<FlattenResult> {
  const { checksum = 'crc32c', signal, crc32c = nativeCrc32c } = options;
  if (checksum !== 'crc32c' && checksum !== 'none') {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a checksum, got ${String(checksum)}`);
  }
  if (typeof options.dir !== 'string') {
    throw new SluiceError('ERR_SLUICE_OPTION', `Expected a directory, got ${String(options.dir)}`);
  }
  throwIfAborted(signal);
  const opened = await openChain(dir, crc32c);
  try {
    // Absolute, so that it stays the same directory if the program changes its own.
    const output = await createImageDir(options.dir && resolve(options.dir));
    try {
      const pages = await flatten(opened, output.dir, { checksum, signal, crc32c });
      return {
        dir: options.dir,
        pages_written: pages,
        bytes_written: pages * PAGE_BYTES,
        images: opened.chain.length,
      };
    } catch (error) {
      // What went wrong first is what the caller must learn.
      await output.discard().catch(() => undefined);
      throw fromNative(error, { file: output.dir });
    }
  } finally {
    await closeShards(opened.shards);
  }
}

interface Settings {
  checksum: 'crc32c' | 'none';
  signal: AbortSignal | undefined;
  crc32c: Crc32c;
}

async function flatten(opened: OpenedChain, dir: string, settings: Settings): Promise<number> {
  const { chain, spaces } = opened;
  const [newest] = chain;
  if (newest === undefined) throw new RangeError('A chain without images');
  const { manifest } = newest;
  const plan = new FlattenPlan(allRuns(opened), Math.max(1, manifest.shards.length));
  const shards = await copyPages(opened, plan, dir, settings);
  await writeImage({
    ...manifest,
    dir,
    parent: null,
    checksum: settings.checksum,
    pieceBytes: PIECE_BYTES,
    shards,
    processes: spaces.map((space) => {
      const { vmas } = space.process;
      return {
        ...space.process,
        vmas: vmas.map(({ file, ...vma }) => (file === null ? vma : { ...vma, file })),
        pageTable: pageTableOf(space.runs(), plan),
      };
    }),
    crc32c: settings.crc32c,
  });
  return plan.pages;
}

function* allRuns({ spaces }: OpenedChain) {
  for (const space of spaces) yield* space.runs();
}

function pageTableOf(runs: ReturnType<typeof allRuns>, plan: FlattenPlan): Uint8Array {
  const table = new PageTableBuilder();
  for (const run of runs) {
    let { address } = run;
    for (const { shard, offset, pages } of plan.targets(run)) {
      table.add({ address, pages, shard, offset });
      address += BigInt(pages * PAGE_BYTES);
    }
  }
  return table.finish();
}

async function copyPages(
  opened: OpenedChain,
  plan: FlattenPlan,
  dir: string,
  { checksum, signal, crc32c }: Settings,
): Promise<WriteImageShard[]> {
  const pieceBytes = checksum === 'none' ? 0 : PIECE_BYTES;
  const writers: ShardWriter[] = [];
  try {
    for (let shard = 0; shard < plan.shards; shard += 1) {
      writers.push(await ShardWriter.create(dir, shard, pieceBytes, crc32c));
    }
    const block = new Uint8Array(BLOCK_BYTES);
    let row = 0;
    for (const { image, shard, offset, pages } of plan.sources()) {
      for (let done = 0; done < pages; ) {
        throwIfAborted(signal);
        const part = block.subarray(0, Math.min(BLOCK_BYTES, (pages - done) * PAGE_BYTES));
        await opened.shards[image]?.read(shard, offset + done * PAGE_BYTES, part);
        const copied = part.length / PAGE_BYTES;
        let at = 0;
        for (const target of plan.cut(row, copied)) {
          const end = at + target.pages * PAGE_BYTES;
          await writers[target.shard]?.append(part.subarray(at, end));
          at = end;
        }
        done += copied;
        row += copied;
      }
    }
    throwIfAborted(signal);
    return await Promise.all(writers.map((writer) => writer.finish()));
  } finally {
    await Promise.all(writers.map((writer) => writer.close()));
  }
}
