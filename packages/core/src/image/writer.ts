/** Writes what an image has beside its shards, and thereby publishes it. */
import { type FileHandle, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type {
  CaptureBackend,
  CapturedState,
  CapturedThread,
  CapturedVma,
  LeftOutRange,
} from '@sluice/native';
import { fromNative, SluiceError } from '../errors.js';
import { type Crc32c, nativeCrc32c } from './checksum.js';
import { MANIFEST_FILE, MANIFEST_TEMPORARY_FILE, PAGE_BYTES, pageTableFile } from './layout.js';
import {
  type Consistency,
  type Manifest,
  type ManifestLeftOut,
  type ManifestProcess,
  type ManifestRound,
  mayLeaveToParent,
} from './manifest.js';
import { encodeManifest } from './manifest_codec.js';
import { Mappings } from './mappings.js';
import {
  CHUNK_BYTES,
  type PageTable,
  PageTableFault,
  PageTableLoader,
  RECORD_BYTES,
} from './page_table.js';

/** One process of the image to be written. */
export interface WriteImageProcess {
  pid: number;
  namespacePid: number;
  name: string;
  commandLine: readonly string[];
  executable: string;
  /** Clock ticks after boot. */
  startTimeTicks: bigint;
  vmas: readonly CapturedVma[];
  threads: readonly CapturedThread[];
  state: CapturedState | null;
  /** In any order; ranges may overlap. */
  leftOut: readonly LeftOutRange[];
  /**
   * Records as docs/image-format.md describes them; those that leave pages to the chain below only
   * in a frozen image with a parent.
   */
  pageTable: Uint8Array;
}

/** A shard that is in the directory already, sealed and synced. */
export interface WriteImageShard {
  file: string;
  bytes: number;
  /** Per piece; empty with checksum `none`. */
  crcs: Uint32Array;
}

export interface WriteImageOptions {
  /** Directory of the image; holds the shards, and maybe those of rounds. */
  dir: string;
  producer: { name: string; version: string };
  /** Nanoseconds since the epoch. */
  createdNs: bigint;
  kernel: { release: string; machine: string };
  /** `frozen` if the process stood still for all of it. */
  consistency: Consistency;
  /** 32 lowercase hexadecimal digits, the same in all images of a chain. */
  session: string;
  /** From 1 on, higher than that of the parent. */
  round: number;
  /** `round-NNNN` for the image of a session, `../round-NNNN` for that of a round, or null. */
  parent: string | null;
  capture: CaptureBackend;
  checksum: 'crc32c' | 'none';
  /** Bytes of a shard that one checksum covers; not looked at with checksum `none`. */
  pieceBytes: number;
  /** In the order of the page tables' shard numbers. */
  shards: readonly WriteImageShard[];
  processes: readonly WriteImageProcess[];
  /** Of the session, in order, up to this image: `live` ones, and `final` last if it is frozen. */
  rounds: readonly ManifestRound[];
  /** Implementation of CRC32C; that of the addon if not given. */
  crc32c?: Crc32c;
}

/**
 * Writes page tables and manifest; when it returns, the image is whole and on the disk. All is
 * checked as a reader would check it before anything is written; only the parent is not looked at.
 *
 * @returns The manifest as it was written.
 * @throws SluiceError `ERR_SLUICE_OPTION` for contents that make no valid image,
 * `ERR_SLUICE_DISK_FULL`, `ERR_SLUICE_IO`. The caller then removes the directory's files.
 */
export async function writeImage(options: WriteImageOptions): Promise<Manifest> {
  const { dir, crc32c = nativeCrc32c } = options;
  const manifest = manifestOf(options, crc32c);
  const bytes = encodeManifest(manifest, crc32c);
  try {
    for (const { pid, pageTable } of options.processes) {
      await writeSynced(join(dir, pageTableFile(pid)), pageTable);
    }
    const temporary = join(dir, MANIFEST_TEMPORARY_FILE);
    await writeSynced(temporary, bytes);
    // The other files' names must be on the disk before the name that vouches for them.
    await syncDirectory(dir);
    await rename(temporary, join(dir, MANIFEST_FILE));
    await syncDirectory(dir);
  } catch (error) {
    throw fromNative(error, { file: dir });
  }
  return manifest;
}

/** The manifest of these contents, checked as a reader would check it. */
export function manifestOf(options: WriteImageOptions, crc32c: Crc32c): Manifest {
  const { producer, createdNs, kernel, capture, checksum, shards, rounds } = options;
  const { consistency, session, round, parent } = options;
  const inParent = mayLeaveToParent(options);
  return {
    producer: { name: producer.name, version: producer.version },
    createdNs,
    kernel: { release: kernel.release, machine: kernel.machine },
    pageSizeBytes: PAGE_BYTES,
    consistency,
    session,
    round,
    parent,
    capture,
    checksum,
    pieceBytes: checksum === 'none' ? 0 : options.pieceBytes,
    shards: shards.map(({ file, bytes, crcs }) => ({
      file,
      bytes: BigInt(bytes),
      crcs: littleEndian(crcs),
    })),
    processes: options.processes.map((process) => processOf(process, shards, inParent, crc32c)),
    rounds: rounds.map(({ kind, pagesWritten, bytesWritten, times }) => ({
      kind,
      pagesWritten,
      bytesWritten,
      times: { ...times },
    })),
  };
}

function processOf(
  process: WriteImageProcess,
  shards: readonly WriteImageShard[],
  mayLeaveToParent: boolean,
  crc32c: Crc32c,
): ManifestProcess {
  const { pid, namespacePid, name, commandLine, executable, startTimeTicks, pageTable } = process;
  const vmas = process.vmas.map(({ file, ...vma }) => ({
    start: vma.start,
    end: vma.end,
    protection: vma.protection,
    shared: vma.shared,
    offset: vma.offset,
    device: vma.device,
    inode: vma.inode,
    path: vma.path,
    kind: vma.kind,
    leftOut: vma.leftOut,
    vmFlags: vma.vmFlags,
    // Some objects have names that are no paths, like `anon_inode:[io_uring]`.
    file: file?.path.startsWith('/') ? fileOf(file) : null,
  }));
  const mappings = new Mappings({ vmas });
  const { pagesStored, pagesInParent } = load(pageTable, mappings, shards, mayLeaveToParent);
  return {
    pid,
    namespacePid,
    name,
    commandLine: [...commandLine],
    executable,
    startTimeTicks,
    vmas,
    threads: [...process.threads],
    state: process.state,
    leftOut: withoutOverlap(process.leftOut),
    pageTable: {
      file: pageTableFile(pid),
      entries: pageTable.length / RECORD_BYTES,
      crc32c: crc32c(pageTable, 0),
    },
    pagesStored,
    pagesInParent,
  };
}

function fileOf(file: NonNullable<CapturedVma['file']>): NonNullable<CapturedVma['file']> {
  const { path, device, inode, bytes, modifiedNs, changedNs } = file;
  return { path, device, inode, bytes, modifiedNs, changedNs };
}

/** As a reader would. */
export function load(
  pageTable: Uint8Array,
  mappings: Mappings,
  shards: readonly WriteImageShard[],
  mayLeaveToParent: boolean,
): PageTable {
  const loader = new PageTableLoader(
    mappings,
    shards.map(({ bytes }) => ({ bytes: BigInt(bytes) })),
    mayLeaveToParent,
  );
  try {
    for (let at = 0; at < pageTable.length; at += CHUNK_BYTES) {
      loader.add(pageTable.subarray(at, at + CHUNK_BYTES));
    }
  } catch (error) {
    if (!(error instanceof PageTableFault) && !(error instanceof RangeError)) throw error;
    const message = `The page table makes no valid image: ${error.message}`;
    throw new SluiceError('ERR_SLUICE_OPTION', message, { cause: error });
  }
  return loader.finish();
}

/** Ascending, and of ranges that overlap the one that starts first has the common part. */
function withoutOverlap(ranges: readonly LeftOutRange[]): ManifestLeftOut[] {
  const sorted = [...ranges].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
  let last = 0n;
  return sorted.flatMap(({ start, end, reason }) => {
    const from = start > last ? start : last;
    if (from >= end) return [];
    last = end;
    return [{ start: from, end, reason }];
  });
}

function littleEndian(numbers: Uint32Array): Uint8Array {
  const bytes = new Uint8Array(4 * numbers.length);
  const view = new DataView(bytes.buffer);
  numbers.forEach((number, i) => {
    view.setUint32(4 * i, number, true);
  });
  return bytes;
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  await withHandle(await open(path, 'wx', 0o600), async (handle) => {
    await handle.writeFile(bytes);
    await handle.sync();
  });
}

/** Makes the names in a directory durable. */
export async function syncDirectory(dir: string): Promise<void> {
  await withHandle(await open(dir, 'r'), (handle) => handle.sync());
}

async function withHandle(
  handle: FileHandle,
  use: (handle: FileHandle) => Promise<void>,
): Promise<void> {
  try {
    await use(handle);
  } finally {
    await handle.close();
  }
}
