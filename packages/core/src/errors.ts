/**
 * Every error that Sluice throws on purpose. Codes are part of the public API: they are added, never
 * renamed. docs/errors.md lists the same codes; a unit test compares the two.
 */

/** What a code means, and what the one who meets it can do. */
export interface ErrorEntry {
  readonly summary: string;
  readonly advice: string;
}

/** All codes of `SluiceError`. */
export const ERRORS = {
  ERR_SLUICE_NO_SUCH_PROCESS: {
    summary: 'There is no process with this pid.',
    advice:
      'Check the pid in the pid namespace of the dumper: inside a container it is another one.',
  },
  ERR_SLUICE_KERNEL_THREAD: {
    summary: 'The pid is a kernel thread, which has no memory of its own.',
    advice: 'Choose a process of user space.',
  },
  ERR_SLUICE_ZOMBIE: {
    summary: 'The process has ended already and waits for its parent; its memory is gone.',
    advice: 'Dump it earlier, or enable core dumps for it.',
  },
  ERR_SLUICE_SELF: {
    summary: 'The target is the dumping process itself, which cannot freeze itself.',
    advice: 'Run the dump in another process, for example with the sluice command.',
  },
  ERR_SLUICE_ANCESTOR: {
    summary: 'The target is a parent or further ancestor of the dumping process.',
    advice:
      'Start the dumper from elsewhere: a frozen shell or supervisor could wait for it forever.',
  },
  ERR_SLUICE_PERMISSION: {
    summary: 'The kernel does not let the caller trace the target.',
    advice:
      'Run as root or as the user of the target with CAP_SYS_PTRACE; see kernel.yama.ptrace_scope, ' +
      'and the seccomp profile if in a container. `sluice doctor PID` tells which one it is.',
  },
  ERR_SLUICE_ALREADY_TRACED: {
    summary:
      'Another tracer (a debugger, strace) is attached to the target, or another dump is under way.',
    advice:
      'End that tracer, or wait until it has detached; TracerPid in /proc/PID/status names it.',
  },
  ERR_SLUICE_UNSUPPORTED_TARGET: {
    summary: 'The target is of a kind that Sluice cannot dump, such as a 32-bit program.',
    advice: 'The message names the reason; use another tool for this process.',
  },
  ERR_SLUICE_PROC_MISMATCH: {
    summary: '/proc does not belong to the pid namespace of the dumper.',
    advice: 'Mount proc in this pid namespace, or run the dumper in the one /proc belongs to.',
  },
  ERR_SLUICE_TARGET_EXITED: {
    summary: 'The target ended while it was dumped or restored.',
    advice: 'There is nothing left to dump; start the program anew and dump it earlier.',
  },
  ERR_SLUICE_TARGET_EXECED: {
    summary: 'The target replaced its program with execve while it was dumped or restored.',
    advice: 'Dump it again: the new program is another address space.',
  },
  ERR_SLUICE_FREEZE_TIMEOUT: {
    summary: 'Not all threads of the target could be stopped in time; all were let go again.',
    advice:
      'Try again, or raise freezeTimeoutMs. A thread in uninterruptible sleep (state D) waits for a ' +
      'device or a network file system.',
  },
  ERR_SLUICE_FREEZE_LIMIT: {
    summary:
      'The target was frozen for longer than allowed, and was let go before the work was done.',
    advice:
      'Look for what hangs: the disk of the output, or memory that another process is to serve. If it is ' +
      'only slow, raise freezeLimitMs, or take more of it in rounds.',
  },
  ERR_SLUICE_CAPTURE_UNAVAILABLE: {
    summary: 'The capture backend that was asked for does not work here.',
    advice: 'Use capture "auto" or "read"; `sluice doctor PID` tells why vmsplice does not work.',
  },
  ERR_SLUICE_TRACKER_UNAVAILABLE: {
    summary: 'What the target writes cannot be tracked in the way that was asked for.',
    advice:
      'Use tracker "auto", or rounds 0 for a dump under one freeze; `sluice doctor` tells what works. A pre-dump needs a kernel with soft-dirty bits (CONFIG_MEM_SOFT_DIRTY).',
  },
  ERR_SLUICE_NO_CONVERGENCE: {
    summary: 'The target writes faster than can be drained, so the freeze budget was not reached.',
    advice:
      'Allow a longer freeze or more time, or accept a longer freeze with noConverge "finish".',
  },
  ERR_SLUICE_INJECTION: {
    summary: 'A helper could not be started in the address space of the target, or misbehaved.',
    advice: 'Use capture "read", which needs no helper. The target was put back as it was.',
  },
  ERR_SLUICE_OUTPUT_EXISTS: {
    summary: 'The output exists already: a directory that is not empty, or a file.',
    advice: 'Name one that does not exist yet, or empty this directory.',
  },
  ERR_SLUICE_OUTPUT_NOT_WRITABLE: {
    summary: 'The output cannot be created or written to, or is no directory where one is needed.',
    advice: 'Choose a directory that the caller may write to, on a file system mounted read-write.',
  },
  ERR_SLUICE_DISK_FULL: {
    summary: 'The file system of the output directory, or the quota on it, is full.',
    advice: 'Free some space or dump to another file system; nothing of this dump was kept.',
  },
  ERR_SLUICE_DIRECT_IO_UNAVAILABLE: {
    summary: 'The file system of the output directory does not take O_DIRECT.',
    advice: 'Use io "auto" or "buffered".',
  },
  ERR_SLUICE_IO: {
    summary: 'Reading or writing a file failed.',
    advice: 'The message names the file and the cause; look at the kernel log for a failing disk.',
  },
  ERR_SLUICE_CANCELLED: {
    summary: 'A step was ended because another one failed.',
    advice: 'Look at the other error; this code is internal and does not reach callers by itself.',
  },
  ERR_SLUICE_SYSTEM: {
    summary: 'A system call failed in a way that has no code of its own.',
    advice: 'The error names the system call and its errno; `sluice doctor PID` may tell more.',
  },
  ERR_SLUICE_OPTION: {
    summary: 'An option or argument is unknown or has a wrong value.',
    advice: 'The message names the option, what was expected and what came.',
  },
  ERR_SLUICE_NATIVE_LOAD: {
    summary: 'The native part of Sluice could not be loaded.',
    advice: 'The message lists what was tried and how to install or build it.',
  },
  ERR_SLUICE_WORKER: {
    summary: 'A worker thread of Sluice died or could not be started.',
    advice: 'Check the limits on memory and threads (ulimit -u, pids.max of the cgroup).',
  },
  ERR_SLUICE_IMAGE_NOT_FOUND: {
    summary: 'There is no image at this path.',
    advice: 'Name the directory that was given to the dump.',
  },
  ERR_SLUICE_IMAGE_UNFINISHED: {
    summary: 'The directory has no manifest: the dump that wrote it did not come to its end.',
    advice: 'Delete the directory and dump again.',
  },
  ERR_SLUICE_IMAGE_VERSION: {
    summary: 'The image has a format version that this Sluice does not know.',
    advice: 'Read it with a Sluice at least as new as the one that wrote it.',
  },
  ERR_SLUICE_IMAGE_CORRUPT: {
    summary: 'The image is damaged: a file is truncated, was changed, or contradicts itself.',
    advice: 'Use another copy; file and offset of the error tell where the damage is.',
  },
  ERR_SLUICE_PARENT: {
    summary: 'The directory cannot be the parent of new images for CRIU.',
    advice: 'The message names the reason; name another parent, or none.',
  },
  ERR_SLUICE_NOT_MAPPED: {
    summary: 'The process had nothing mapped at this address.',
    advice: 'Look at the mappings with `sluice inspect`.',
  },
  ERR_SLUICE_LEFT_OUT: {
    summary: 'The bytes at this address were left out of the image on purpose.',
    advice: 'The message tells why, as does `sluice inspect`; they cannot be had from this image.',
  },
  ERR_SLUICE_FILE_CHANGED: {
    summary: 'These bytes were left to a file, and it was changed or removed since the dump.',
    advice: 'Put the file back as it was at the time of the dump, with its times.',
  },
  ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE: {
    summary: 'The image does not hold this process.',
    advice: 'List the processes of the image with `sluice inspect`.',
  },
  ERR_SLUICE_NO_THREADS: {
    summary: 'The image holds memory and no threads, which a core needs.',
    advice:
      'Take the final image of a dump, which was made under freeze by Sluice, or make the core of ' +
      'the live process with `sluice core --pid PID`.',
  },
  ERR_SLUICE_RESTORE_MISMATCH: {
    summary:
      'The process is not the one of the image, or differs in what a restore cannot bring back.',
    advice:
      'The message names what differs. Nothing in the process was changed. Memory that other processes share is restored with the option `shared` (`--shared`).',
  },
  ERR_SLUICE_UNSAFE: {
    summary:
      'What was asked for cannot be made safe: if Sluice is killed in the middle of it, the process is left a mixture of now and then.',
    advice:
      'Nothing was touched. If you can afford to lose the process, use the option `force` (`--force`).',
  },
  ERR_SLUICE_RESTORE_INCOMPLETE: {
    summary:
      'A restore failed after it had begun to change the process, which is a mixture of now and then.',
    advice:
      'Restore once more when the cause, which the message names, is gone, or end the process.',
  },
} as const satisfies Record<string, ErrorEntry>;

/** One of the codes in `ERRORS`. */
export type SluiceErrorCode = keyof typeof ERRORS;

/** What a `SluiceError` may carry beside code and message. */
export interface SluiceErrorDetails {
  /** Process that the error is about. */
  pid?: number | undefined;
  /** System call that failed, like `ptrace`. */
  syscall?: string | undefined;
  /** errno of that call, positive. */
  errno?: number | undefined;
  /** Path of the file that the error is about. */
  file?: string | undefined;
  /** Bytes into that file. */
  offset?: number | bigint | undefined;
  /** Whether the target runs again; only for errors of a dump or a restore. */
  thawed?: boolean | undefined;
  cause?: unknown;
}

// Symbol.for, so that two copies of the package in one process know each other's errors.
const BRAND = Symbol.for('sluice.error');

const DETAIL_NAMES = ['pid', 'syscall', 'errno', 'file', 'offset', 'thawed'] as const;

/** Every error that Sluice throws on purpose, apart from `AbortError`. */
export class SluiceError extends Error {
  declare readonly code: SluiceErrorCode;
  declare readonly pid?: number;
  declare readonly syscall?: string;
  declare readonly errno?: number;
  declare readonly file?: string;
  declare readonly offset?: number | bigint;
  declare readonly thawed?: boolean;

  constructor(code: SluiceErrorCode, message: string, details: SluiceErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    Object.assign(this, { code });
    for (const name of DETAIL_NAMES) {
      if (details[name] !== undefined) Object.assign(this, { [name]: details[name] });
    }
  }

  /** What the one who meets this error can do. */
  get advice(): string {
    return ERRORS[this.code].advice;
  }

  /** True for a `SluiceError` of any copy of this package. */
  static isSluiceError(value: unknown): value is SluiceError {
    return value instanceof Error && BRAND in value;
  }
}
// On the prototypes: an own property would show in every printed error.
Object.defineProperty(SluiceError.prototype, 'name', { value: 'SluiceError' });
Object.defineProperty(SluiceError.prototype, BRAND, { value: true });

/** The operation was ended by its `signal`; thrown after the target runs again. */
export class AbortError extends Error {
  readonly code = 'ABORT_ERR';
  /** Whether the target runs again. */
  readonly thawed: boolean = true;

  /** @param reason `signal.reason`, kept as `cause`. */
  constructor(reason: unknown) {
    super('The operation was aborted', { cause: reason });
  }
}
Object.defineProperty(AbortError.prototype, 'name', { value: 'AbortError' });

/** @throws AbortError */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortError(signal.reason);
}

/**
 * The public error for one that came from the addon, a worker or a file system call; an error that
 * is public already, or that is a bug, comes back unchanged.
 *
 * @param details Added where the error itself does not say.
 */
export function fromNative(error: unknown, details: SluiceErrorDetails = {}): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  if (SluiceError.isSluiceError(error) || error instanceof AbortError) return error;
  const { code, errno, syscall, pid, path } = error as SystemFields;
  if (typeof code !== 'string') return error;
  const own = {
    errno: typeof errno === 'number' ? Math.abs(errno) : undefined,
    syscall: typeof syscall === 'string' ? syscall : undefined,
    pid: typeof pid === 'number' ? pid : undefined,
    file: typeof path === 'string' ? path : undefined,
  };
  const known = isCode(code) ? code : codeOfErrno(code, own.syscall);
  if (known === undefined) return error;
  const merged = { ...details, cause: error };
  for (const name of ['errno', 'syscall', 'pid', 'file'] as const) {
    if (own[name] !== undefined) Object.assign(merged, { [name]: own[name] });
  }
  // Node names the file where it was given a path, and not where it was given a descriptor.
  const isNameless = !isCode(code) && own.file === undefined && details.file !== undefined;
  const message = isNameless ? `${error.message} '${details.file}'` : error.message;
  return new SluiceError(known, message, merged);
}

/** The same error, saying in addition whether the target runs again. */
export function withThawed(error: Error, thawed: boolean): Error {
  if (SluiceError.isSluiceError(error) && error.thawed === undefined) {
    Object.assign(error, { thawed });
  }
  return error;
}

interface SystemFields {
  code?: unknown;
  errno?: unknown;
  syscall?: unknown;
  pid?: unknown;
  path?: unknown;
}

function isCode(code: string): code is SluiceErrorCode {
  return Object.hasOwn(ERRORS, code);
}

/** Node's errors of file system calls have the name of the errno as code. */
function codeOfErrno(code: string, syscall: string | undefined): SluiceErrorCode | undefined {
  if (syscall === undefined || !/^E[A-Z0-9]+$/.test(code)) return undefined;
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return 'ERR_SLUICE_DISK_FULL';
    default:
      return 'ERR_SLUICE_IO';
  }
}
