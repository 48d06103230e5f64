/** Signals to this process as an AbortSignal, so that what is under way can be undone. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export type InterruptSignal = (typeof SIGNALS)[number];

/** Why an operation was aborted: somebody sent a signal. */
export class Interruption extends Error {
  override readonly name = 'Interruption';
  readonly signalName: InterruptSignal;
  /** How things are after it, in a sentence. */
  readonly aftermath: string | undefined;

  constructor(signalName: InterruptSignal, aftermath?: string) {
    super(`Received ${signalName}`);
    this.signalName = signalName;
    this.aftermath = aftermath;
  }
}

/** While this scope lasts, a signal ends the operation and not the process. */
export class InterruptScope implements Disposable {
  readonly #controller = new AbortController();
  readonly #aftermath: string | undefined;
  // A second signal changes nothing: the target has to be put back as it was in any case.
  readonly #onSignal = (name: NodeJS.Signals): void =>
    this.#controller.abort(new Interruption(name as InterruptSignal, this.#aftermath));

  /** @param aftermath How things are if the operation was ended, where it is not a dump. */
  constructor(aftermath?: string) {
    this.#aftermath = aftermath;
    for (const name of SIGNALS) process.on(name, this.#onSignal);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const name of SIGNALS) process.off(name, this.#onSignal);
  }
}
