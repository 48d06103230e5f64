/** The process that is dumped: test/targets/bench_target.c. */
import { programOf } from './machine.js';
import { Conversation } from './processes.js';
import type { CpuTime } from './sample.js';

/** CPU time of a process and of the children it has reaped. */
export interface Usage {
  self: CpuTime;
  children: CpuTime;
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

  /** Runs `work` while the target watches itself; resolves to the longest pause that it saw. */
  async longestPauseUs(work: () => Promise<void>): Promise<number> {
    await this.#conversation.ask('watch');
    await work();
    const { gapUs } = await this.#conversation.ask<{ gapUs: number }>('gap');
    return gapUs;
  }

  close(): Promise<void> {
    return this.#conversation.close();
  }
}
