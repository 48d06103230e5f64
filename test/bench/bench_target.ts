/** The process that is dumped: test/targets/bench_target.c. */
import { programOf } from './machine.js';
import { Conversation } from './processes.js';
import type { CpuTime } from './sample.js';

const NS_PER_US = 1000;
const US_PER_SECOND = 1e6;

/** CPU time of a process and of the children it has reaped. */
export interface Usage {
  self: CpuTime;
  children: CpuTime;
}

/** A time in which a thread of the target stood still. Microseconds. */
export interface Stop {
  /** Of CLOCK_MONOTONIC, as `process.hrtime`. */
  fromUs: number;
  us: number;
  /** Part of it in which the thread could run and waited for a CPU. */
  waitedUs: number;
}

/** What a thread of the target saw that does nothing but read the clock. */
export interface Watched {
  /** Longest time between two looks at the clock, whatever the reason. */
  gapUs: number;
  /** Those in which it was stopped. */
  stops: Stop[];
}

/** CPU time that the same work took. Nanoseconds. */
export interface Work {
  /** Of the first write to each page. */
  firstNs: number;
  /** Of four more. */
  writeNs: number;
  callNs: number;
  computeNs: number;
}

export class BenchTarget {
  readonly mib: number;
  readonly #conversation: Conversation;

  private constructor(mib: number, conversation: Conversation) {
    this.mib = mib;
    this.#conversation = conversation;
  }

  /** Starts it and waits until its memory is filled. */
  static async start(mib: number): Promise<BenchTarget> {
    const name = `the target of ${mib} MiB`;
    const conversation = new Conversation(name, programOf('bench_target'), [String(mib)]);
    await conversation.answer();
    return new BenchTarget(mib, conversation);
  }

  get pid(): number {
    return this.#conversation.pid;
  }

  usage(): Promise<Usage> {
    return this.#conversation.ask('usage');
  }

  /** Runs `work` while the target watches itself. */
  async watch(work: () => Promise<void>): Promise<Watched> {
    await this.#conversation.ask('watch');
    await work();
    return this.#conversation.ask('gap');
  }

  /** Makes it write so many random words a second, until it is to be still or its end. */
  async write(wordsPerSecond: number): Promise<void> {
    await this.#conversation.ask(`write ${wordsPerSecond}`);
  }

  work(): Promise<Work> {
    return this.#conversation.ask('work');
  }

  async still(): Promise<void> {
    await this.#conversation.ask('still');
  }

  /** Words that it wrote a second between two times of `process.hrtime`, in microseconds. */
  async writtenPerSecond(fromUs: number, toUs: number): Promise<number> {
    const ns = (us: number) => Math.round(us * NS_PER_US);
    const command = `written ${ns(fromUs)} ${ns(toUs)}`;
    const { words } = await this.#conversation.ask<{ words: number }>(command);
    return words / ((toUs - fromUs) / US_PER_SECOND);
  }

  close(): Promise<void> {
    return this.#conversation.close();
  }
}
