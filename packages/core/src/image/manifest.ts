/** What a manifest says, as docs/image-format.md describes it. */
import type {
  CaptureBackend,
  CapturedState,
  CapturedThread,
  NativeFile,
  NativeVma,
  VmaKind,
} from '@sluice/native';

/** One mapping of a process. */
export interface ManifestVma extends NativeVma {
  kind: VmaKind;
  /** Why nothing is stored, for kind `excluded`; else ``. */
  leftOut: string;
  /** `VmFlags` of proc_pid_smaps(5), like `rd wr mr`; `` if not known. */
  vmFlags: string;
  /** The file behind the mapping as it was when dumped; null if there is none that could be read. */
  file: NativeFile | null;
}

export type ManifestThread = CapturedThread;
export type ManifestState = CapturedState;

/** Addresses whose pages should have been stored and could not be read. */
export interface ManifestLeftOut {
  start: bigint;
  end: bigint;
  reason: string;
}

export interface ManifestProcess {
  pid: number;
  /** pid in the process's own pid namespace. */
  namespacePid: number;
  name: string;
  commandLine: string[];
  executable: string;
  /** Clock ticks after boot, field 22 of proc_pid_stat(5). */
  startTimeTicks: bigint;
  /** Ascending, not overlapping. */
  vmas: ManifestVma[];
  /** None in an image that was taken while the process ran. */
  threads: ManifestThread[];
  /** null where there are no threads, and if the process was killed while it was frozen. */
  state: ManifestState | null;
  /** Ascending, not overlapping. */
  leftOut: ManifestLeftOut[];
  pageTable: { file: string; entries: number; crc32c: number };
  /** Pages that the page table places in a shard of this image. */
  pagesStored: number;
  /** Pages that the page table leaves to the chain below. */
  pagesInParent: number;
}

export interface ManifestShard {
  file: string;
  bytes: bigint;
  /** u32 little-endian per piece; empty with checksum `none`. */
  crcs: Uint8Array;
}

export type Consistency = 'frozen' | 'live';

export interface ManifestRound {
  kind: 'live' | 'final';
  pagesWritten: number;
  bytesWritten: number;
  /** Microseconds by name, like `frozen_time`. */
  times: Record<string, number>;
}

export interface Manifest {
  producer: { name: string; version: string };
  /** Nanoseconds since the epoch. */
  createdNs: bigint;
  kernel: { release: string; machine: string };
  pageSizeBytes: number;
  /** `live`: taken while the process ran, so that pages may not belong together. */
  consistency: Consistency;
  /** 32 hexadecimal digits, the same in all images of a chain. */
  session: string;
  /** Higher than that of the parent. */
  round: number;
  /** The image below this one, from its directory: `round-NNNN` or `../round-NNNN`. */
  parent: string | null;
  capture: CaptureBackend;
  checksum: 'crc32c' | 'none';
  /** Bytes of a shard that one checksum covers; 0 with checksum `none`. */
  pieceBytes: number;
  shards: ManifestShard[];
  processes: ManifestProcess[];
  /** Of the session, in order, up to this image. */
  rounds: ManifestRound[];
}

/** Whether its page tables may leave pages to the chain below. */
export function mayLeaveToParent(manifest: Pick<Manifest, 'consistency' | 'parent'>): boolean {
  return manifest.consistency === 'frozen' && manifest.parent !== null;
}

/** Path into a manifest, like `['processes', 0, 'vmas', 3, 'start']`. */
export type ManifestPath = readonly (string | number)[];

/** A value in a manifest that must not be. */
export class ManifestFault extends Error {
  readonly path: ManifestPath;

  constructor(path: ManifestPath, message: string) {
    super(`${path.length === 0 ? 'the payload' : path.join('.')}: ${message}`);
    this.path = path;
  }
}
