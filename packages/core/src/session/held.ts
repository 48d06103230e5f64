/** A target that stands frozen after its dump, and what can become of it. */
import { SluiceError } from '../errors.js';

export type Release = 'resume' | 'stopped' | 'kill';

/** What a handle needs of the session behind it. Must not refer to the handle. */
export interface HeldSession {
  pid: number;
  /** @throws `ERR_SLUICE_FREEZE_LIMIT` if it goes on already. */
  check(): Promise<void>;
  /** Lets the target go in this way, cleans up and ends the session. */
  release(how: Release): Promise<void>;
}

// A handle that nobody has any more must not leave a process frozen for good.
const lost = new FinalizationRegistry<HeldSession>((session) => {
  session.release('resume').catch(() => {});
});

/**
 * The handle of a frozen target. Whatever is called first counts. The target goes on if the handle is
 * lost, if the dumping process ends, or at the option `freezeLimitMs`. After that nothing is done to it, and
 * all calls reject with `ERR_SLUICE_FREEZE_LIMIT`.
 */
export class HeldTarget implements AsyncDisposable {
  readonly pid: number;
  readonly #session: HeldSession;
  #released: Promise<void> | undefined;

  /** @internal */
  constructor(session: HeldSession) {
    this.pid = session.pid;
    this.#session = session;
    lost.register(this, session, this);
  }

  /** Lets the target go on. @throws `SluiceError` */
  resume(): Promise<void> {
    return this.#release('resume');
  }

  /** Leaves it stopped as by SIGSTOP, for good: SIGCONT resumes it. @throws `SluiceError` */
  leaveStopped(): Promise<void> {
    return this.#release('stopped');
  }

  /** Kills it with SIGKILL, before it runs again. @throws `SluiceError` */
  kill(): Promise<void> {
    return this.#release('kill');
  }

  /** Lets it go on, if it is still held. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#released !== undefined) return;
    await this.resume().catch((error: unknown) => {
      if (!SluiceError.isSluiceError(error) || error.code !== 'ERR_SLUICE_FREEZE_LIMIT')
        throw error;
    });
  }

  toJSON(): { pid: number } {
    return { pid: this.pid };
  }

  #release(how: Release): Promise<void> {
    if (this.#released !== undefined) {
      return Promise.reject(
        new SluiceError('ERR_SLUICE_OPTION', `Process ${this.pid} was released already`, {
          pid: this.pid,
        }),
      );
    }
    lost.unregister(this);
    this.#released = this.#session.release(how);
    return this.#released;
  }
}
