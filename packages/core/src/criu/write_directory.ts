/** Writes a directory of images that `criu dump` takes as its parent, see docs/criu.md. */
import { rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { fromNative, throwIfAborted } from '../errors.js';
import { PAGE_BYTES } from '../image/layout.js';
import { type PageSpan, union, without } from '../image/page_spans.js';
import type { Image } from '../image/reader.js';
import { syncDirectory } from '../image/writer.js';
import { bytesIn, privateSpans, type StoredSpan, sharedObjects } from './content.js';
import { FileWriter } from './file_writer.js';
import { dump_stats_entrySchema, inventory_entrySchema, stats_entrySchema } from './images_pb.js';
import {
  INVENTORY_FILE,
  INVENTORY_MAGIC,
  INVENTORY_TEMPORARY_FILE,
  PARENT_LINK,
  PE_PARENT,
  PE_PRESENT,
  pagemapFile,
  pagesFile,
  SERVICE_MAGIC,
  STATS_FILE,
  STATS_MAGIC,
  shmemFile,
} from './names.js';
import { pagemapHead, pagemapRecord } from './pagemap.js';
import { frame } from './records.js';

const IMG_VERSION = 1;
/** That the pages were read, so that those without PROT_READ are there too. */
const PRE_DUMP_READ = 2;

/** For `writeCriuDirectory`. */
export interface WriteCriuOptions {
  /** A directory that is there, and empty. */
  dir: string;
  /** Whose pages are written. */
  image: Image;
  /** Only the pages in the shards of the image itself, and not of those below. Default false. */
  ownOnly?: boolean | undefined;
  /** Take the shard away from the image where it has what a pages file has. Default false. */
  adopt?: boolean | undefined;
  /** The directory of images that the new one builds on. */
  parent?: CriuParent | undefined;
  /** When the pages were read, in microseconds after boot; later than the processes started. */
  uptimeMicroseconds: bigint;
  /** What else is known for `stats-dump`: times in microseconds, and pages. */
  stats?: Omit<MessageInitShape<typeof dump_stats_entrySchema>, '$typeName'> | undefined;
  signal?: AbortSignal | undefined;
}

export interface CriuParent {
  /** Its path from the new directory. */
  link: string;
  /** Pages that it or one below it has, by pid in the pid namespace of the process. */
  coverage: ReadonlyMap<number, readonly PageSpan[]>;
}

/** Pages of all processes and objects. */
export interface WrittenCriu {
  pagesWritten: number;
  pagesInParent: number;
}

/**
 * Writes the pages that `image` stores as present, and those that only the parent has as such. The
 * inventory comes last, when all else is on the disk: without it `criu dump` takes no such parent.
 *
 * @throws SluiceError as `Image.read` does; `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`
 * @throws AbortError
 */
export async function writeCriuDirectory(options: WriteCriuOptions): Promise<WrittenCriu> {
  const { dir, image, ownOnly = false, parent } = options;
  const sum = { pagesWritten: 0, pagesInParent: 0 };
  let shared = 0;
  try {
    if (parent !== undefined) await symlink(parent.link, join(dir, PARENT_LINK));
    let id = 0;
    for (const process of image.processes) {
      id += 1;
      const spans = [...privateSpans(image, process, ownOnly)];
      const below = [...without(parent?.coverage.get(process.namespacePid) ?? [], spans)];
      await writePages({ ...options, name: pagemapFile(process.namespacePid), id, spans, below });
      sum.pagesWritten += pagesOf(spans);
      sum.pagesInParent += pagesOf(below);
    }
    for (const [inode, spans] of sharedObjects(image, ownOnly)) {
      id += 1;
      await writePages({ ...options, name: shmemFile(inode), id, spans, below: [] });
      shared += pagesOf(spans);
    }
    await writeStats(options, sum, shared);
    await writeInventory(options);
    return { ...sum, pagesWritten: sum.pagesWritten + shared };
  } catch (error) {
    throw fromNative(error, { file: dir });
  }
}

interface Pages extends WriteCriuOptions {
  /** Of the pagemap. */
  name: string;
  /** Of the pages file. */
  id: number;
  spans: readonly StoredSpan[];
  /** Pages that the parent has. */
  below: readonly PageSpan[];
}

/** One pagemap, and the pages file that goes with it. */
async function writePages(options: Pages): Promise<void> {
  const { dir, image, name, id, spans, below, adopt, signal } = options;
  const shard = adopt ? shardInOrder(image, pagesOf(spans)) : undefined;
  if (shard !== undefined) await rename(join(image.dir, shard), join(dir, pagesFile(id)));
  else await copyPages(options);
  await using pagemap = await FileWriter.create(join(dir, name));
  await pagemap.append(pagemapHead(id));
  for (const entry of entriesOf(spans, below)) {
    throwIfAborted(signal);
    await pagemap.append(pagemapRecord(entry, entry.flags));
  }
  await pagemap.finish();
}

async function copyPages({ dir, image, id, spans, signal }: Pages): Promise<void> {
  await using pages = await FileWriter.create(join(dir, pagesFile(id)));
  for (const span of spans) {
    for await (const bytes of bytesIn(image, span)) {
      throwIfAborted(signal);
      await pages.append(bytes);
    }
  }
  await pages.finish();
}

/** The only shard of an image of one process, if it has these pages and nothing else, by address. */
function shardInOrder(image: Image, pages: number): string | undefined {
  const { shards, processes } = image.manifest;
  const [shard] = shards;
  const [process] = processes;
  if (shard === undefined || process === undefined || shards.length + processes.length > 2) return;
  let bytes = 0;
  for (const run of image.runs(process.pid)) {
    if (run.image > 0) continue;
    if (run.offset !== bytes) return;
    bytes += run.pages * PAGE_BYTES;
  }
  const whole = bytes === pages * PAGE_BYTES && shard.bytes === BigInt(bytes);
  return whole ? shard.file : undefined;
}

/** Spans here and in the parent by address, as few as possible. */
function entriesOf(
  here: readonly PageSpan[],
  below: readonly PageSpan[],
): (PageSpan & { flags: number })[] {
  const flagged = (spans: readonly PageSpan[], flags: number) =>
    union(spans).map((span) => ({ ...span, flags }));
  const entries = [...flagged(here, PE_PRESENT), ...flagged(below, PE_PARENT)];
  return entries.sort((a, b) => a.start - b.start);
}

async function writeStats(
  { dir, stats }: WriteCriuOptions,
  { pagesWritten, pagesInParent }: WrittenCriu,
  shared: number,
): Promise<void> {
  const dump = create(dump_stats_entrySchema, {
    freezingTime: 0,
    frozenTime: 0,
    memdumpTime: 0,
    memwriteTime: 0,
    pagesScanned: BigInt(pagesWritten + pagesInParent),
    pagesSkippedParent: BigInt(pagesInParent),
    pagesWritten: BigInt(pagesWritten),
    irmapResolve: 0,
    pagesLazy: 0n,
    shpagesScanned: BigInt(shared),
    shpagesSkippedParent: 0n,
    shpagesWritten: BigInt(shared),
    ...stats,
  });
  const payload = toBinary(stats_entrySchema, create(stats_entrySchema, { dump }));
  await writeWhole(join(dir, STATS_FILE), frame([SERVICE_MAGIC, STATS_MAGIC], [payload]));
}

async function writeInventory({ dir, uptimeMicroseconds }: WriteCriuOptions): Promise<void> {
  const inventory = create(inventory_entrySchema, {
    imgVersion: IMG_VERSION,
    fdinfoPerId: true,
    dumpUptime: uptimeMicroseconds,
    preDumpMode: PRE_DUMP_READ,
  });
  const payload = toBinary(inventory_entrySchema, inventory);
  const temporary = join(dir, INVENTORY_TEMPORARY_FILE);
  await writeWhole(temporary, frame([INVENTORY_MAGIC], [payload]));
  await syncDirectory(dir);
  await rename(temporary, join(dir, INVENTORY_FILE));
  await syncDirectory(dir);
}

async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  await using file = await FileWriter.create(path);
  await file.append(bytes);
  await file.finish();
}

function pagesOf(spans: readonly PageSpan[]): number {
  return spans.reduce((sum, { start, end }) => sum + end - start, 0);
}
