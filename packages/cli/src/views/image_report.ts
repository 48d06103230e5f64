/** What `sluice inspect --json` prints. Names are stable; sizes are bytes, times microseconds. */
import type {
  ChainImage,
  Image,
  ManifestLeftOut,
  ManifestProcess,
  ManifestRound,
  ManifestState,
  ManifestThread,
  ManifestVma,
  PageRun,
} from '@sluice/core';
import { type Reported, reported } from './state_report.js';

export interface ImageReport {
  dir: string;
  producer: { name: string; version: string };
  /** ISO 8601. */
  created: string;
  kernel: { release: string; machine: string };
  page_size: number;
  /** `live` if the process ran meanwhile: then the image alone may be torn. */
  consistency: string;
  session: string;
  round: number;
  capture: string;
  checksum: string;
  /** Bytes of a shard under one checksum; 0 without. */
  piece_bytes: number;
  shards: { file: string; bytes: number }[];
  rounds: RoundReport[];
  /** This image and those that it builds on, newest first. */
  chain: ChainImageReport[];
  processes: ProcessReport[];
}

export interface RoundReport {
  kind: string;
  pages_written: number;
  bytes_written: number;
  /** Times by name. */
  [time: `${string}_time`]: number;
}

export interface ChainImageReport {
  dir: string;
  round: number;
  consistency: string;
  /** Of all its processes, in its own shards. */
  pages_stored: number;
  /** That its page tables leave to the images below. */
  pages_in_parent: number;
  /** Of its shards. */
  bytes: number;
}

export interface ProcessReport {
  pid: number;
  namespace_pid: number;
  name: string;
  command_line: string[];
  executable: string;
  /** As docs/image-format.md has them, names in snake case, registers as hexadecimal digits. */
  threads: Reported<ManifestThread>[];
  /** The same; null if the process ran meanwhile. */
  state: Reported<ManifestState> | null;
  /** In the shards of this image. */
  pages_stored: number;
  /** In the shards of images below. */
  pages_in_parent: number;
  /** Of the address space, in all images: what is stored once and mapped twice counts twice. */
  bytes_stored: number;
  bytes_mapped: number;
  vmas: VmaReport[];
  /** Whole mappings and single ranges, in the order of their addresses. */
  left_out: ManifestLeftOut[];
}

export interface VmaReport {
  start: bigint;
  end: bigint;
  bytes: number;
  bytes_stored: number;
  protection: string;
  shared: boolean;
  kind: string;
  path: string;
  /** Bytes into the file. */
  offset: bigint;
  device: string;
  /** Decimal: it may have all 64 bits. */
  inode: string;
}

export function reportImage(image: Image): ImageReport {
  const { producer, createdNs, kernel, pageSizeBytes, pieceBytes, session, round } = image.manifest;
  const { consistency, capture, checksum, shards, rounds, processes } = image.manifest;
  return {
    dir: image.dir,
    producer,
    created: isoTime(createdNs),
    kernel,
    page_size: pageSizeBytes,
    consistency,
    session,
    round,
    capture,
    checksum,
    piece_bytes: pieceBytes,
    shards: shards.map(({ file, bytes }) => ({ file, bytes: Number(bytes) })),
    rounds: rounds.map(reportRound),
    chain: image.chain.map(reportChainImage),
    processes: processes.map((process) =>
      reportProcess(process, image.runs(process.pid), pageSizeBytes),
    ),
  };
}

function reportRound({ kind, pagesWritten, bytesWritten, times }: ManifestRound): RoundReport {
  return { ...times, kind, pages_written: pagesWritten, bytes_written: bytesWritten };
}

function reportChainImage({ dir, manifest }: ChainImage): ChainImageReport {
  const { round, consistency, processes, shards } = manifest;
  return {
    dir,
    round,
    consistency,
    pages_stored: processes.reduce((sum, { pagesStored }) => sum + pagesStored, 0),
    pages_in_parent: processes.reduce((sum, { pagesInParent }) => sum + pagesInParent, 0),
    bytes: shards.reduce((sum, { bytes }) => sum + Number(bytes), 0),
  };
}

function reportProcess(
  process: ManifestProcess,
  runs: Iterable<PageRun>,
  pageBytes: number,
): ProcessReport {
  const { pid, namespacePid, name, commandLine, executable, threads, state } = process;
  const { vmas, leftOut } = process;
  const stored = storedBytes(vmas, runs, pageBytes);
  const bytesStored = stored.reduce((sum, bytes) => sum + bytes, 0);
  return {
    pid,
    namespace_pid: namespacePid,
    name,
    command_line: commandLine,
    executable,
    threads: threads.map(reported<ManifestThread>),
    state: state && reported(state),
    pages_stored: process.pagesStored,
    pages_in_parent: bytesStored / pageBytes - process.pagesStored,
    bytes_stored: bytesStored,
    bytes_mapped: vmas.reduce((sum, { start, end }) => sum + Number(end - start), 0),
    vmas: vmas.map((vma, i) => reportVma(vma, stored[i] ?? 0)),
    left_out: [...leftOut, ...excluded(vmas)].sort((a, b) => (a.start < b.start ? -1 : 1)),
  };
}

function excluded(vmas: readonly ManifestVma[]): ManifestLeftOut[] {
  return vmas
    .filter(({ kind }) => kind === 'excluded')
    .map(({ start, end, leftOut }) => ({ start, end, reason: leftOut }));
}

function reportVma(vma: ManifestVma, bytesStored: number): VmaReport {
  const { start, end, protection, shared, kind, path, offset, device, inode } = vma;
  return {
    start,
    end,
    bytes: Number(end - start),
    bytes_stored: bytesStored,
    protection,
    shared,
    kind,
    path,
    offset,
    device,
    inode: String(inode),
  };
}

/** Stored bytes of each mapping. Both lists ascend, and a run may go on into the next mapping. */
export function storedBytes(
  vmas: readonly Pick<ManifestVma, 'start' | 'end'>[],
  runs: Iterable<Pick<PageRun, 'address' | 'pages'>>,
  pageBytes: number,
): number[] {
  // Page numbers are exact as numbers where addresses are not.
  const page = (address: bigint) => Number(address / BigInt(pageBytes));
  const ranges = vmas.map(({ start, end }) => ({ start: page(start), end: page(end), pages: 0 }));
  let at = 0;
  for (const { address, pages } of runs) {
    const start = page(address);
    const end = start + pages;
    while ((ranges[at]?.end ?? end) <= start) at += 1;
    for (let i = at; i < ranges.length; i += 1) {
      const range = ranges[i];
      if (range === undefined || range.start >= end) break;
      range.pages += Math.min(range.end, end) - Math.max(range.start, start);
    }
  }
  return ranges.map(({ pages }) => pages * pageBytes);
}

function isoTime(nanoseconds: bigint): string {
  const date = new Date(Number(nanoseconds / 1_000_000n));
  // A manifest may name any time, also one that no date can hold.
  return Number.isNaN(date.getTime()) ? '' : date.toISOString();
}
