/**
 * A session of the addon with one rule for failure: the first thing that goes wrong ends everything,
 * all calls come back, and that first error is the one that counts.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { addon, type NativeSessionOptions, type OpenedTarget } from '@sluice/native';
import { WorkerDiedError } from '@sluice/workers';
import { AbortError, fromNative, SluiceError, withThawed } from '../errors.js';
import type { Counters } from './dump_run.js';

/** In which a call comes back that is told to end, unless it hangs in the kernel. */
const HANG_MS = 4000;

const openSessions = new Set<NativeSession>();

/**
 * A worker that waits in native code would hold up the end of the process; and the target should not
 * have to wait for the kernel to clean up after it.
 */
function cancelAll(): void {
  for (const session of openSessions) session.cancel();
}

export class NativeSession {
  readonly handle: number;
  readonly target: OpenedTarget;
  readonly pid: number;
  readonly #signal: AbortSignal;
  readonly #onAbort = () => this.fail(new AbortError(this.#signal.reason));
  #failure: Error | undefined;
  #cancelled = false;
  #ending = new Ending();
  #hung = false;

  /**
   * Opens a session. Nothing in the target is touched yet.
   *
   * @throws What the addon throws, as `SluiceError`.
   */
  constructor(options: NativeSessionOptions, signal: AbortSignal) {
    try {
      this.target = addon.sessionOpen(options);
    } catch (error) {
      throw withThawed(fromNative(error, { pid: options.pid }), true);
    }
    this.handle = this.target.session;
    this.pid = options.pid;
    this.#signal = signal;
    if (openSessions.size === 0) process.on('exit', cancelAll);
    openSessions.add(this);
    if (signal.aborted) this.#onAbort();
    else signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Notes an error, if it is the first one that tells something, and cancels all calls. */
  fail(error: unknown): void {
    const failure = fromNative(error, { pid: this.pid });
    // The native side cancels by itself as well, and that news may arrive before its reason.
    if (this.#failure === undefined || isCancelled(this.#failure)) this.#failure = failure;
    this.cancel();
  }

  /** Makes all blocked calls return soon; the target is thawed. */
  cancel(): void {
    if (this.#cancelled) return;
    this.#cancelled = true;
    this.#ending.begin();
    addon.sessionCancel(this.handle);
  }

  /** Whether calls were left behind that hang. */
  get hung(): boolean {
    return this.#hung;
  }

  /**
   * What comes of a call that may hang in the kernel, on a dead disk: once the calls beside it are to end, it
   * is left behind after a while.
   *
   * @throws What it throws; `ERR_SLUICE_CANCELLED` when it is left behind.
   */
  async mayHang<Value>(call: Promise<Value>): Promise<Value> {
    const over = new AbortController();
    const leave = async (): Promise<never> => {
      await this.#ending.begun;
      await sleep(HANG_MS, undefined, { signal: over.signal });
      this.#hung = true;
      throw new SluiceError('ERR_SLUICE_CANCELLED', 'A thread hangs in a system call');
    };
    try {
      return await Promise.race([call, leave()]);
    } finally {
      over.abort();
    }
  }

  /** The error that counts, saying whether the target runs. Undefined while all is well. */
  get failure(): Error | undefined {
    return this.#failure && withThawed(this.#failure, !this.counters().frozen);
  }

  /** @throws The failure, if there is one. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * Waits until every call has come back, whatever comes of it.
   *
   * @throws The first error of any of them, or of an earlier step.
   */
  async all<Value>(calls: readonly Promise<Value>[]): Promise<Value[]> {
    const values: Value[] = [];
    const watched = calls.map(async (call, index) => {
      try {
        values[index] = await call;
      } catch (error) {
        this.fail(error);
      }
    });
    await Promise.all(watched);
    this.check();
    return values;
  }

  /**
   * The same, but a failure is only returned. Undefined if all went well.
   *
   * @throws The failure, if the session had one before or meanwhile: nothing can go on then.
   */
  async attempt(calls: readonly Promise<unknown>[]): Promise<Error | undefined> {
    // As they come: what goes wrong later may be because of the first.
    const errors: Error[] = [];
    const watched = calls.map((call) =>
      call.catch((error) => {
        // The others would wait for a thread that is gone.
        if (error instanceof WorkerDiedError) this.fail(error);
        this.#ending.begin();
        errors.push(fromNative(error, { pid: this.pid }));
      }),
    );
    await Promise.all(watched);
    const first = errors.find((error) => !isCancelled(error)) ?? errors[0];
    if (this.#hung) this.fail(first);
    this.check();
    this.#ending = new Ending();
    return first;
  }

  /** `all` for a single call. */
  async one<Value>(call: Promise<Value>): Promise<Value> {
    const [value] = await this.all([call]);
    return value as Value;
  }

  counters(): Counters {
    return addon.sessionProgress(this.handle);
  }

  /** Its signal ends nothing any more: what it was to end is done. */
  detachSignal(): void {
    this.#signal.removeEventListener('abort', this.#onAbort);
  }

  /** Frees the native side. All calls must have come back. */
  close(): void {
    this.detachSignal();
    openSessions.delete(this);
    if (openSessions.size === 0) process.removeListener('exit', cancelAll);
    addon.sessionClose(this.handle);
  }
}

/** The moment from which on calls are to come back. */
class Ending {
  readonly begun: Promise<void>;
  #begin: () => void = () => {};

  constructor() {
    this.begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
  }

  begin(): void {
    this.#begin();
  }
}

function isCancelled(error: Error): boolean {
  return SluiceError.isSluiceError(error) && error.code === 'ERR_SLUICE_CANCELLED';
}
