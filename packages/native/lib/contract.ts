/**
 * What the addon offers, as types. Functions marked "blocks" must run on a worker thread; those of
 * one lane, and those of control, each always on the same thread.
 */

/** Capture backend: helper with `vmsplice`, or `process_vm_readv` and `/proc/PID/mem`. */
export type CaptureBackend = 'vmsplice' | 'read';

/** How pages are kept as they were under freeze: copied there, or in a copy-on-write twin. */
export type Consistency = 'copy' | 'twin';

/** What tells which pages were written: userfaultfd write protection, or nothing. */
export type TrackerName = 'uffd-wp' | 'soft-dirty' | 'none';

/**
 * One pass over the target. `whole`: all pages, under freeze. `live`: pages written since they were
 * collected, while the target runs. `final`: what the rounds before left, under freeze.
 */
export type RoundKind = 'whole' | 'live' | 'final';

/** What a VMA contributes to an image, and where the rest of its bytes is to be had. */
export type VmaKind =
  /** Private memory without a file: existing pages are stored, the rest reads as zeros. */
  | 'anonymous'
  /** Private file mapping: modified pages are stored, the rest is in the file. */
  | 'private-file'
  /** Shared file mapping: the bytes are in the file; pages mapped writable and present are stored. */
  | 'shared-file'
  /** Shared anonymous, memfd, System V, tmpfs: all data of the object is stored, the rest reads as zeros. */
  | 'shared-memory'
  /** Mapping of a file that no path leads to any more: all its data is stored, holes are not. */
  | 'deleted-file'
  /** `[vdso]`: stored whole. */
  | 'vdso'
  /** Nothing is stored; see `leftOut`. */
  | 'excluded';

/** The file behind a mapping as it was when dumped. */
export interface NativeFile {
  path: string;
  device: bigint;
  inode: bigint;
  bytes: bigint;
  /** Nanoseconds since the epoch. */
  modifiedNs: bigint;
  /** Nanoseconds since the epoch. */
  changedNs: bigint;
}

/** One mapping as in `/proc/PID/maps` (proc_pid_maps(5)). */
export interface NativeVma {
  start: bigint;
  end: bigint;
  /** Like `r-x`. */
  protection: string;
  shared: boolean;
  /** Bytes into the file. */
  offset: bigint;
  /** As `maps` prints it, like `fe:00`. */
  device: string;
  inode: bigint;
  /** Path or pseudo-path as `maps` prints it, or `` for none. */
  path: string;
}

export interface CapturedVma extends NativeVma {
  kind: VmaKind;
  /** Why nothing is stored, for kind `excluded`; else ``. */
  leftOut: string;
  /** `VmFlags` of proc_pid_smaps(5), like `rd wr mr`; `` if the mapping appeared after they were read. */
  vmFlags: string;
  /** Only for mappings of files. */
  file?: NativeFile;
}

/** A thread as it stood while its process was frozen. */
export interface CapturedThread {
  tid: number;
  /** In the process's own pid namespace; 0 if it ended before it could be asked. */
  namespaceTid: number;
  /** Empty if it ended before it could be asked. */
  name: string;
  /** `struct user_regs_struct` of x86-64 as the kernel gives it (NT_PRSTATUS). */
  registers: Uint8Array;
  /** Floating-point and all extended registers, as ptrace(2) gives NT_X86_XSTATE; the legacy area comes first. */
  extendedRegisters: Uint8Array;
  /** Blocked signals, number n as bit n - 1. */
  signalMask: bigint;
  /** Signals that wait for this thread, number n as bit n - 1. */
  pendingSignals: bigint;
  /** Head of its list of robust futexes (get_robust_list(2)); 0n for none. */
  robustList: bigint;
  /** Its restartable sequences (rseq(2)); null if it has none or the kernel does not tell. */
  rseq: { address: bigint; bytes: number; signature: number } | null;
}

/** What sigaction(2) set for a signal that the process catches. */
export interface SignalAction {
  signal: number;
  handler: bigint;
  flags: bigint;
  restorer: bigint;
  /** Signal number n as bit n - 1. */
  mask: bigint;
}

/** Where `extendedRegisters` have those of one feature of the processor. */
export interface ExtendedFeature {
  /** Of XSAVE, like 2 for AVX. */
  number: number;
  bytes: number;
  offset: number;
}

/** What the kernel keeps of a process beside its memory. Signal sets have number n as bit n - 1. */
export interface CapturedState {
  parentPid: number;
  processGroup: number;
  sessionLeader: number;
  nice: number;
  /** PF_* of the kernel, field 9 of proc_pid_stat(5). */
  flags: bigint;
  /** Real, effective, saved, file system (proc_pid_status(5)). */
  userIds: number[];
  groupIds: number[];
  supplementaryGroups: number[];
  capabilities: {
    inheritable: bigint;
    permitted: bigint;
    effective: bigint;
    bounding: bigint;
    ambient: bigint;
  };
  noNewPrivileges: boolean;
  /** 0 off, 1 strict, 2 filter. */
  seccompMode: number;
  /** By name as in getrlimit(2), like `NOFILE`; 2^64 - 1 is unlimited. None where the caller may not ask. */
  limits: { name: string; soft: bigint; hard: bigint }[];
  /** As in /proc/PID/auxv: pairs of u64. */
  auxiliaryVector: Uint8Array;
  /** Fields 26 to 28 and 45 to 51 of proc_pid_stat(5). */
  addresses: {
    startCode: bigint;
    endCode: bigint;
    startStack: bigint;
    startData: bigint;
    endData: bigint;
    startBreak: bigint;
    argumentsStart: bigint;
    argumentsEnd: bigint;
    environmentStart: bigint;
    environmentEnd: bigint;
  };
  /** What brk(2) set; 0n if not known. */
  programBreak: bigint;
  /** That wait for the process as a whole. */
  pendingSignals: bigint;
  ignoredSignals: bigint;
  caughtSignals: bigint;
  /**
   * Of the signals that are caught, as they were when the dump began; null without a helper in the
   * process, or if more signals are caught since.
   */
  signalActions: SignalAction[] | null;
  /** Of all features but those of the legacy area, ascending by number. Empty if not known. */
  extendedLayout: ExtendedFeature[];
  umask: number;
  workingDirectory: string;
  root: string;
  /** At most 65,536, ascending; those after the first 512 as they were right after the freeze. */
  descriptors: { descriptor: number; path: string; position: bigint; flags: number }[];
}

/** Pages that should have been stored and could not be read. */
export interface LeftOutRange {
  start: bigint;
  end: bigint;
  reason: string;
}

export interface NativeSessionOptions {
  pid: number;
  /** 1 to 64. */
  lanes: number;
  /** 1 to 64; also the number of shards. */
  drains: number;
  /** Most bytes that may be pinned in pipes at once. */
  budgetBytes: number;
  capture: 'auto' | CaptureBackend;
  io: 'auto' | 'direct' | 'buffered';
  /** Existing directory of the image. */
  dir: string;
  /**
   * A file that exists, in which every page has its place, instead of shards; `` for shards. Later rounds
   * write over what earlier ones wrote, so that it holds the newest bytes.
   */
  placedFile: string;
  /** Bytes at the start of that file that are not for pages: whole pages. */
  placesFrom: number;
  tracker: 'auto' | TrackerName;
  /** How the last pages are kept as they were under freeze, of a round that copies. */
  consistency: 'auto' | Consistency;
  /** A helper is used whatever the seccomp filter of the target says. */
  force: boolean;
  /**
   * Live rounds are to be complete, for somebody else who takes the final one: they take what nobody
   * writes to as well, and tell what they cover.
   */
  handOver: boolean;
  /**
   * Start and end by turns: pages in the image that the first round builds on, taken when soft-dirty
   * bits were reset last.
   */
  known: BigUint64Array;
  /** Give up freezing after this many milliseconds. */
  freezeTimeoutMs: number;
  /** The target is not frozen for longer than this; 0 for no limit. */
  freezeLimitMs: number;
}

export interface OpenedTarget {
  /** Handle for all the calls below. */
  session: number;
  name: string;
  commandLine: string[];
  executable: string;
  /** Clock ticks after boot, field 22 of proc_pid_stat(5). */
  startTimeTicks: bigint;
  /** pid in the target's own pid namespace. */
  namespacePid: number;
}

export interface LaneAttached {
  backend: CaptureBackend;
  /** Why `auto` did not take vmsplice, or ``. */
  fallbackReason: string;
  /** How long the target's thread was stopped for it, microseconds; 0 with `read`. */
  stoppedUs: number;
}

export interface TrackerAttached {
  tracker: TrackerName;
  /** Why `auto` took not the best, or ``. */
  reason: string;
}

/** Work found by the survey: item i is [starts[i], ends[i]) with `pages[i]` pages to be taken in `runs[i]` runs. Ascending. */
export interface Survey {
  /** Number of the round that was prepared. */
  round: number;
  starts: BigUint64Array;
  ends: BigUint64Array;
  pages: Float64Array;
  runs: Float64Array;
  /** Sum of `pages`. */
  totalPages: number;
}

/** Where pages have their places in a file. */
export interface SessionPlaces {
  /** Start and end by turns, ascending: adjacent addresses that are adjacent in the file. */
  ranges: BigUint64Array;
  /** Of each range, bytes into the file. */
  offsets: Float64Array;
  /** After the last place, bytes. */
  end: number;
}

/** Result of `drainSeal`. */
export interface SealedShard {
  /** File name in the directory of the round. */
  file: string;
  bytes: number;
  io: 'direct' | 'buffered';
  /** Why `auto` did not take direct, or ``. */
  ioReason: string;
  /** CRC32C per piece of `pieceBytes`, the last one shorter; empty when not asked for. */
  crcs: Uint32Array;
  checksumUs: number;
  syncUs: number;
}

export interface RoundCaptured {
  vmas: CapturedVma[];
  /** None after a live round. */
  threads: CapturedThread[];
  /** null after a live round, and if the process was killed while it was frozen. */
  state: CapturedState | null;
  leftOut: LeftOutRange[];
  /**
   * Page table as it is stored: records of 24 bytes, little-endian: u64 address, u32 pages,
   * u32 shard (0xffffffff: in the parent image), u64 offset in the shard. Ascending by address, not
   * overlapping. With places, the final one names the places of all pages, whichever round wrote them.
   */
  pageTable: Uint8Array;
  pagesWritten: number;
  /** Pages that exist twice in the address space and once in the shards. */
  pagesAliased: number;
  /** Pages that are left to earlier rounds. */
  pagesInParent: number;
  pagesScanned: number;
  /** Longest time that a lane spent on finding its pages. */
  scanUs: number;
  /** From the first thread interrupted until all stood still; 0 in a live round, but with soft-dirty. */
  freezingUs: number;
  /**
   * From the first thread stopped until the last one was resumed, or until now if it is held; 0 in a
   * live round, but with soft-dirty.
   */
  frozenUs: number;
  /** Scan and feed: gate opened until the last lane was done. */
  memdumpUs: number;
  /** Gate opened until the last slot was drained. */
  memwriteUs: number;
  /** Most bytes that were pinned in pipes at once. */
  pinnedPeakBytes: number;
  /** After a live round with `handOver`: start and end by turns of what this round or one before holds. */
  covered: BigUint64Array;
  /** Of a round that was to copy. */
  consistency: Consistency;
  /** Why, or why no twin; `` of a live round, and of one that was not to copy. */
  consistencyReason: string;
  /** When soft-dirty bits were reset, microseconds since boot; else 0. */
  resetUptimeUs: number;
  /** Notes for people: what was done differently than hoped. */
  warnings: string[];
}

export interface SessionProgress {
  pagesCaptured: number;
  bytesDrained: number;
  frozen: boolean;
}

/** A mapping that a restore brings back. */
export interface WantedVma extends Omit<CapturedVma, 'file'> {
  file: NativeFile | null;
}

export interface NativeRestoreOptions {
  pid: number;
  startTimeTicks: bigint;
  /** Ascending, not overlapping. */
  vmas: WantedVma[];
  threads: CapturedThread[];
  signalActions: CapturedState['signalActions'];
  ignoredSignals: bigint;
  /** Ascending. */
  descriptors: CapturedState['descriptors'];
  /** Even where other processes would see shared memory change. */
  shared: boolean;
  /** Start and end by turns, ascending, not overlapping: pages that the image holds. */
  stored: BigUint64Array;
  /** The same: pages that the image could not read. */
  leftOut: BigUint64Array;
  freezeTimeoutMs: number;
  /** The process does not stay frozen for longer than this without anything being done to it. */
  freezeLimitMs: number;
}

export interface NativeRestoreResult {
  pagesWritten: number;
  pagesDropped: number;
  mappingsMapped: number;
  mappingsUnmapped: number;
  mappingsProtected: number;
  /** From the first thread interrupted until all stood still. */
  freezingUs: number;
  /** From the first thread stopped until the last one was resumed. */
  frozenUs: number;
  warnings: string[];
}

export interface KernelFacts {
  release: string;
  machine: string;
  pageSizeBytes: number;
  /** Each probe tells what it found: `ok` and, where not, why. */
  probes: Record<KernelProbe, { ok: boolean; detail: string }>;
}
export type KernelProbe =
  | 'ptraceSeize'
  | 'pidfdGetfd'
  | 'vmsplice'
  | 'processVmReadv'
  | 'pagemapScan'
  | 'pagemap'
  | 'mapFiles'
  | 'uffdWpAsync'
  | 'softDirty'
  | 'kcmp'
  | 'suspendSeccomp'
  | 'oDirect'
  | 'pipeSize';

export interface TargetFacts {
  pid: number;
  name: string;
  startTimeTicks: bigint;
  state: string;
  threads: number;
  /** pid in the target's own pid namespace; 0 if there is no such process. */
  namespacePid: number;
  seccompMode: number;
  tracerPid: number;
  /** `` if a dump may be tried, else an error code. */
  refusal: string;
  refusalDetail: string;
}

/** What was found in a process, and what of it could not be removed. */
export interface NativeCleaned {
  mappings: number;
  zombies: number;
  /** In words. */
  left: string[];
}

/** One fault for the system-call seam; tests only. */
export interface Fault {
  /**
   * Name like `splice`; a `remote:` prefix means the call made in a helper or target. Of ioctl, all
   * requests, or one as in `ioctl:UFFDIO_REGISTER`.
   */
  call: string;
  /** Calls let through first. */
  skip: number;
  /** Calls hit after that; -1 for all. */
  times: number;
  /** Fail with this errno (positive); 0 for none. */
  errno: number;
  /** Cut the byte count of the call down to this; 0 for no cut. */
  capBytes: number;
  /**
   * `copy` makes vmsplice copy, as a kernel that turned it into writev does. With `hang` a call does not come
   * back until faults are set anew.
   */
  mode: '' | 'copy' | 'hang';
}

export interface Addon {
  kernelFacts(dir: string): KernelFacts;
  targetFacts(pid: number): TargetFacts;
  /** Other processes that run in the memory of a live one, of those that this caller may look at. */
  memoryUsers(pid: number): number[];
  readMaps(pid: number): NativeVma[];
  /**
   * What can be read of a live process at any time, so without programBreak, signalActions, descriptors,
   * extendedLayout and auxiliaryVector; null if it is gone.
   */
  processState(pid: number): CapturedState | null;
  /** CRC32C (Castagnoli) of the bytes, continuing from `seed` (0 to start). */
  crc32c(bytes: Uint8Array, seed: number): number;
  /** CRC32C per piece of `pieceBytes` of the first `bytes` of a file. Blocks. */
  crc32cFile(path: string, bytes: number, pieceBytes: number): Uint32Array;
  /**
   * Blocks. Removes what a dumper that was killed left in a process; one in which nothing is left is not
   * touched.
   */
  cleanTarget(pid: number): NativeCleaned;
  /** Replaces all faults of the seam; empty to end them. Tests only. */
  setFaults(faults: Fault[]): void;
  /**
   * Counts the steps of work on targets from now on, and kills this process by SIGKILL when `step` comes
   * for the `times`th time; '' for none. Tests only.
   */
  watchSteps(step: string, times: number): void;
  /** How often each step came since, in the order in which they come. */
  stepCounts(): Record<string, number>;
  /** Calls that were hit since `setFaults`. */
  faultsHit(): number;
  /** Ends the process at once, whatever its threads are at, as _exit(2). */
  endProcess(status: number): void;

  sessionOpen(options: NativeSessionOptions): OpenedTarget;
  /** Any thread: all blocked calls of the session end soon with ERR_SLUICE_CANCELLED; the target is thawed. */
  sessionCancel(session: number): void;
  sessionProgress(session: number): SessionProgress;
  /** Lane i takes [cuts[i-1], cuts[i]), the first from 0, the last to the end; `cuts` has lanes-1 entries. */
  sessionSetCuts(session: number, round: number, cuts: BigUint64Array): void;
  /** What came of a round that went well; once. */
  sessionFinishRound(session: number, round: number): RoundCaptured;
  /** Of a session with `placedFile`. */
  sessionPlaces(session: number): SessionPlaces;
  /** Frees the native side. After detach. */
  sessionClose(session: number): void;

  /** Blocks. Takes the target under control's watch; nothing in it is changed. */
  controlAttach(session: number): void;
  /**
   * Blocks. Makes a round and looks what there is to be taken, target running; nothing is looked at
   * before a final round. What a round that failed had collected is owed to the next. `copy`: a
   * final round's pages (about `copyPages`) are copied under freeze and written afterwards.
   */
  controlPrepare(session: number, kind: RoundKind, copy: boolean, copyPages: number): Survey;
  /**
   * Blocks. Makes a live round with the plan and the cuts of another one, to be taken right after it:
   * nothing is looked at. Returns its number.
   */
  controlRepeat(session: number, live: number): number;
  /**
   * Blocks. Takes the rounds from `first` to `last`: of each, waits until all lanes and drains stand at
   * its gate. After a freeze the target goes on (`resume`), or is held until `controlRelease` (`stop`).
   */
  controlCapture(session: number, first: number, last: number, after: 'resume' | 'stop'): void;
  /**
   * Lets a held target go, leaves it stopped as by SIGSTOP, or kills it. Returns how long it was frozen,
   * microseconds. ERR_SLUICE_FREEZE_LIMIT if it goes on already; then nothing is done.
   */
  controlRelease(session: number, how: 'resume' | 'stopped' | 'kill'): number;
  /** ERR_SLUICE_FREEZE_LIMIT if a target that is to be held goes on already. */
  controlRequireHeld(session: number): void;
  /** Blocks. Makes the target reap the helpers; always to be called, after every laneDetach. Returns warnings. */
  controlDetach(session: number): string[];

  /** Blocks. Lanes one after the other, from lane 0. */
  laneAttach(session: number, lane: number): LaneAttached;
  /** Blocks. The session's tracker; on lane 0, when all lanes are attached. */
  laneTrack(session: number): TrackerAttached;
  /** Blocks at the gate of each round, then until the lane's share is captured. */
  laneCapture(session: number, lane: number, first: number, last: number): void;
  /** Blocks. Ends the helper. Always to be called. */
  laneDetach(session: number, lane: number): void;

  /** Blocks. Creates and preallocates shard `drain` of a round in `dir`. */
  drainOpen(
    session: number,
    drain: number,
    round: number,
    dir: string,
    preallocateBytes: number,
  ): void;
  /** Blocks at the gate of each round, then until all lanes are done and all slots are empty. */
  drainRun(session: number, drain: number, first: number, last: number): void;
  /** Blocks. Cut to length, checksum from the file (`pieceBytes` 0: none), fsync if it is to be `durable`. */
  drainSeal(
    session: number,
    drain: number,
    round: number,
    pieceBytes: number,
    durable: boolean,
  ): SealedShard;

  /**
   * Blocks. After the last round: what was written to places or reserved for them becomes holes of the file
   * (zeros, where it can have none), but for the `kept` parts of it, start and end by turns.
   */
  drainClear(session: number, kept: BigUint64Array): void;

  /** Looks at the process; nothing in it is touched. Returns the handle for the calls below. */
  restoreOpen(options: NativeRestoreOptions): number;
  /** Any thread: freezing is given up. What has been begun after that is brought to its end. */
  restoreCancel(restore: number): void;
  /** Any thread: whether the limit has ended the freeze. */
  restoreLimitPassed(restore: number): boolean;
  restoreResult(restore: number): NativeRestoreResult;
  /** Frees the native side. After detach. */
  restoreClose(restore: number): void;

  /** Blocks. These belong to one thread, in this order. Starts a helper. */
  restoreAttach(restore: number): void;
  /** Blocks. All that can be checked while the process runs. */
  restoreCheck(restore: number): void;
  /**
   * Blocks. Freezes and checks again. Returns ranges, start and end by turns, that cannot be written:
   * what the image holds of them must hold now.
   */
  restoreFreeze(restore: number): BigUint64Array;
  /** Blocks. Whether the process has these bytes at `address`. */
  restoreHolds(restore: number, address: bigint, bytes: Uint8Array): boolean;
  /**
   * Blocks. Brings back the mappings, and drops pages. ERR_SLUICE_RESTORE_INCOMPLETE if it failed on
   * the way; after any other error all is as it was.
   */
  restoreApply(restore: number): void;
  /** Blocks. Writes the bytes of `ranges` (start and end by turns), which follow one another in `bytes`. */
  restoreWrite(restore: number, ranges: BigUint64Array, bytes: Uint8Array): void;
  /**
   * Blocks. After all is written: puts files back to where they stood and gives threads their
   * registers. ERR_SLUICE_RESTORE_INCOMPLETE.
   */
  restoreFinish(restore: number): void;
  /** Blocks. */
  restoreThaw(restore: number): void;
  /** Blocks. Ends the helper, and the freeze if there is one; always to be called. Returns warnings. */
  restoreDetach(restore: number): string[];
}
