/** A running dump as the caller sees it: something to await, and to iterate for progress. */
import type { DumpPhase, DumpProgress, DumpResult, RoundProgress } from './result.js';

const TICK_MS = 100;

/** Counters of the native side at one moment. */
export interface Counters {
  pagesCaptured: number;
  bytesDrained: number;
  frozen: boolean;
}

const NO_COUNTERS: Counters = { pagesCaptured: 0, bytesDrained: 0, frozen: false };

/** Where the steps of a dump note how far they are. */
export class ProgressMeter {
  readonly #startedMs = performance.now();
  #phase: DumpPhase = 'attach';
  #pagesExpected = 0;
  #round: RoundProgress | null = null;
  #readCounters: (() => Counters) | undefined;
  #last = NO_COUNTERS;
  /** What it was when each round began, until it is read: rounds may be shorter than a tick. */
  #begun: DumpProgress[] = [];

  enter(phase: DumpPhase): void {
    this.#phase = phase;
  }

  expectPages(pages: number): void {
    this.#pagesExpected += pages;
  }

  enterRound(round: RoundProgress): void {
    this.#round = round;
    const progress = this.read();
    if (progress !== undefined) this.#begun.push(progress);
  }

  /** The states at the begin of the rounds since the last call. */
  takeBegun(): DumpProgress[] {
    const begun = this.#begun;
    this.#begun = [];
    return begun;
  }

  /** Counters are read from here until `disconnect`. */
  connect(readCounters: () => Counters): void {
    this.#readCounters = readCounters;
  }

  /** Keeps the last counters: what they are read from is about to go. */
  disconnect(): void {
    this.#readNow();
    this.#readCounters = undefined;
  }

  /** Since the start of the dump, milliseconds. */
  get elapsedMs(): number {
    return performance.now() - this.#startedMs;
  }

  /** Whether pages may have been captured. */
  get hasCaptured(): boolean {
    return this.#phase !== 'attach' && this.#phase !== 'open';
  }

  /** The state of things, or undefined while the target is frozen. */
  read(): DumpProgress | undefined {
    const { pagesCaptured, bytesDrained, frozen } = this.#readNow();
    if (frozen) return undefined;
    return {
      phase: this.#phase,
      pagesExpected: this.#pagesExpected,
      round: this.#round,
      pagesCaptured,
      bytesDrained,
      elapsedMs: Math.round(this.elapsedMs),
    };
  }

  #readNow(): Counters {
    if (this.#readCounters !== undefined) this.#last = this.#readCounters();
    return this.#last;
  }
}

/**
 * A dump that is under way. Await it for the result. Iterate it for progress: one update for each round,
 * and beside them about ten a second at most, none while the target is frozen; the iteration ends with the dump, and throws what the
 * dump throws. Leaving the iteration early does not end the dump; `signal` does.
 */
export class DumpRun implements PromiseLike<DumpResult>, AsyncIterable<DumpProgress> {
  readonly #result: Promise<DumpResult>;
  readonly #meter: ProgressMeter;
  #running = true;

  /** @internal */
  constructor(start: (meter: ProgressMeter) => Promise<DumpResult>) {
    this.#meter = new ProgressMeter();
    this.#result = start(this.#meter).finally(() => {
      this.#running = false;
    });
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting a run is what it is for
  then<Value = DumpResult, Caught = never>(
    onResult?: ((result: DumpResult) => Value | PromiseLike<Value>) | null,
    onError?: ((error: unknown) => Caught | PromiseLike<Caught>) | null,
  ): Promise<Value | Caught> {
    return this.#result.then(onResult, onError);
  }

  catch<Caught = never>(
    onError?: ((error: unknown) => Caught | PromiseLike<Caught>) | null,
  ): Promise<DumpResult | Caught> {
    return this.#result.catch(onError);
  }

  finally(onEnd?: (() => void) | null): Promise<DumpResult> {
    return this.#result.finally(onEnd);
  }

  async *[Symbol.asyncIterator](): AsyncIterator<DumpProgress> {
    // An error reaches this caller at the end of the iteration, so it is not unhandled until then.
    const ended = this.#result.then(
      () => {},
      () => {},
    );
    while (this.#running) {
      yield* this.#meter.takeBegun();
      const progress = this.#meter.read();
      if (progress !== undefined) yield progress;
      await tickOr(ended);
    }
    yield* this.#meter.takeBegun();
    await this.#result;
    const last = this.#meter.read();
    if (last !== undefined) yield last;
  }
}

/** Waits for one tick, or shorter if the dump ends. */
async function tickOr(ended: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const tick = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, TICK_MS);
  });
  await Promise.race([tick, ended]);
  clearTimeout(timer);
}
