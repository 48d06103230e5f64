/** The public way to a dump. */
import { fromNative, SluiceError, withThawed } from '../errors.js';
import type { TargetIdentity } from './capture.js';
import { performDump } from './dump.js';
import { DumpRun, type ProgressMeter } from './dump_run.js';
import { identify } from './identify.js';
import {
  checkPid,
  type DumpOptions,
  type ResolvedDumpOptions,
  resolveDumpOptions,
  resolveTargetOptions,
  type TargetOptions,
} from './options.js';
import type { DumpResult } from './result.js';

/** A process that can be dumped, any number of times. Made by `openTarget`. */
export class Target {
  readonly pid: number;
  /** Name of the process as the kernel knows it, at most 15 bytes. */
  readonly name: string;
  readonly #identity: TargetIdentity;
  readonly #options: TargetOptions;
  readonly #closing = new AbortController();
  #running: Promise<unknown> | undefined;

  /** @internal */
  constructor(identity: TargetIdentity, name: string, options: TargetOptions) {
    this.pid = identity.pid;
    this.name = name;
    this.#identity = identity;
    this.#options = options;
  }

  /**
   * Dumps the memory of the process into a new image. Starts at once; await it for the result, or
   * iterate it for progress. All errors come by rejection: `SluiceError`, or `AbortError`.
   */
  dump(options: DumpOptions): DumpRun {
    return new DumpRun(async (meter) => {
      const resolved = resolveDumpOptions(options);
      this.#checkFree();
      const dump = dumpLinked(
        this.#identity,
        { ...resolved, logger: resolved.logger ?? this.#options.logger },
        this.#closing.signal,
        meter,
      );
      this.#running = dump.catch(() => {});
      try {
        return await dump;
      } finally {
        this.#running = undefined;
      }
    });
  }

  /** Ends a running dump, if there is one, and waits until the process runs again. Never rejects. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('The target was closed'));
    await this.#running;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #checkFree(): void {
    const { pid } = this;
    if (this.#closing.signal.aborted) {
      throw new SluiceError('ERR_SLUICE_OPTION', `The target ${pid} was closed: open it anew`, {
        pid,
      });
    }
    if (this.#running !== undefined) {
      throw new SluiceError('ERR_SLUICE_ALREADY_TRACED', `A dump of ${pid} is running already`, {
        pid,
      });
    }
  }
}

/**
 * Looks at a process and checks that it can be dumped. The process is not touched.
 *
 * @param pid In the pid namespace of the caller.
 * @throws `SluiceError`: the reason why it cannot be dumped, or `ERR_SLUICE_OPTION`.
 */
export async function openTarget(pid: number, options: TargetOptions = {}): Promise<Target> {
  checkPid(pid);
  const resolved = resolveTargetOptions(options);
  const { startTimeTicks, name } = identify(pid);
  return new Target({ pid, startTimeTicks }, name, resolved);
}

/** Dumps one process once: `openTarget`, `dump` and `close` in one call. */
export function dumpProcess(pid: number, options: DumpOptions): DumpRun {
  return new DumpRun(async (meter) => {
    checkPid(pid);
    const resolved = resolveDumpOptions(options);
    const { startTimeTicks } = identifyRunning(pid);
    return dumpLinked({ pid, startTimeTicks }, resolved, undefined, meter);
  });
}

/** Nothing was done to it yet. */
function identifyRunning(pid: number): ReturnType<typeof identify> {
  try {
    return identify(pid);
  } catch (error) {
    throw withThawed(fromNative(error, { pid }), true);
  }
}

/** Runs a dump that either of two signals can end. */
async function dumpLinked(
  identity: TargetIdentity,
  options: ResolvedDumpOptions,
  closing: AbortSignal | undefined,
  meter: ProgressMeter,
): Promise<DumpResult> {
  const either = new AbortController();
  const sources = [options.signal, closing].filter((signal) => signal !== undefined);
  const links = sources.map((source) => ({
    source,
    forward: () => either.abort(source.reason),
  }));
  for (const { source, forward } of links) {
    if (source.aborted) forward();
    else source.addEventListener('abort', forward, { once: true });
  }
  try {
    return await performDump(identity, options, either.signal, meter);
  } finally {
    // A signal may live as long as the program: leave nothing on it.
    for (const { source, forward } of links) source.removeEventListener('abort', forward);
  }
}
