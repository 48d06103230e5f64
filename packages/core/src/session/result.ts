/**
 * What a dump returns. The names are those of the command's JSON output, in the style that people know
 * from CRIU; all of it can go through `JSON.stringify`. Times are in microseconds.
 */

import type { HeldTarget } from './held.js';

/** A range of addresses whose bytes the image does not hold. */
export interface LeftOut {
  /** First address, as in `0x7f0000000000`. */
  start: string;
  /** Address after the last byte. */
  end: string;
  reason: string;
}

/** One pass over the target. */
export interface RoundResult {
  /** `live`: while the target ran. `final`: under freeze. */
  kind: 'live' | 'final';
  pages_written: number;
  bytes_written: number;
  /** Existing pages that were looked at; in a live round only those that were written. */
  pages_scanned: number;
  /** Pages that are left to earlier rounds; only in the final one. */
  pages_skipped_parent: number;
  /** From the start of the dump until this round began. */
  start_time: number;
  /** Longest of the lanes: finding the pages to be taken. */
  scan_time: number;
  /** 0 in a live round, but with `soft-dirty`. */
  freezing_time: number;
  /** 0 in a live round, but with `soft-dirty`, whose bits are read and reset under a freeze. */
  frozen_time: number;
  /** From its begin, or from the freeze, until the last page was taken. */
  memdump_time: number;
  /** From its begin, or from the freeze, until the last page was written. */
  memwrite_time: number;
}

export interface DumpResult {
  pid: number;
  /** The directory of the image, as it was given. */
  dir: string;
  /** Pages stored in the shards of all rounds. */
  pages_written: number;
  /** Bytes of all shards. */
  bytes_written: number;
  /** Existing pages that were looked at. */
  pages_scanned: number;
  /** Pages that the final round left to earlier ones: they are as they were then. */
  pages_skipped_parent: number;
  /** Pages that are mapped several times and stored once. */
  pages_aliased: number;
  /** From the first thread interrupted until all stood still. */
  freezing_time: number;
  /**
   * From the first thread stopped until the last one was resumed: the pause that the target saw. With
   * `soft-dirty`, each live round has a shorter one before it; `rounds` has them.
   */
  frozen_time: number;
  /** Inside the freeze: until the last page was taken. */
  memdump_time: number;
  /**
   * From the freeze until the last page was written: inside the freeze, or after it if the pages were
   * copied.
   */
  memwrite_time: number;
  /** Taking the target under watch and starting the helpers; it runs meanwhile. */
  attach_time: number;
  /** How long single threads of the target were stopped for that, in sum. */
  attach_stopped_time: number;
  /** Longest of the drains; they work beside each other, after the freeze. */
  checksum_time: number;
  /** Longest of the drains. */
  sync_time: number;
  /** From the call until the image was published. */
  total_time: number;
  /** Backend that was used. */
  capture: 'vmsplice' | 'read';
  /** Why `auto` did not take vmsplice, or ``. */
  capture_reason: string;
  tracker: 'uffd-wp' | 'soft-dirty' | 'none';
  /** Why `auto` took not the best tracker, or ``. */
  tracker_reason: string;
  /**
   * How the last pages were kept as they were under freeze: `copy`, `twin`; or `stop`, since the target
   * stays stopped.
   */
  consistency: 'copy' | 'twin' | 'stop';
  /** Why that one; if a twin was to be made and could not, why. */
  consistency_reason: string;
  io: 'direct' | 'buffered';
  /** Why `auto` did not take direct, or ``. */
  io_reason: string;
  checksum: 'crc32c' | 'none';
  lanes: number;
  /** Number of shard files, of each round. */
  shards: number;
  /** Most bytes that were pinned on their way at one time. */
  pinned_peak_bytes: number;
  left_out: LeftOut[];
  /** Notes for people: what was done differently than hoped. */
  warnings: string[];
  rounds: RoundResult[];
  /** The target, frozen, if the dump was asked to stop it; else null. */
  held: HeldTarget | null;
}

/** Where a dump stands, in the order in which it happens. */
export type DumpPhase = 'attach' | 'open' | 'capture' | 'seal' | 'publish';

export interface DumpProgress {
  phase: DumpPhase;
  /** Pages that the survey found: what `pagesCaptured` will come near to; 0 before it. */
  pagesExpected: number;
  /** Of the round that is under way. */
  round: RoundProgress | null;
  pagesCaptured: number;
  bytesDrained: number;
  /** Since the start of the dump, milliseconds. */
  elapsedMs: number;
}

/** What is known when a round begins. */
export interface RoundProgress {
  /** From 1 on. */
  number: number;
  kind: 'live' | 'final';
  /** Pages to be taken. */
  pages: number;
  /** Pages that the target writes to per second; 0 before it is known. */
  pagesPerSecond: number;
  /** How long the freeze would be if it came now, milliseconds; 0 without rounds. */
  predictedFreezeMs: number;
}
