/** A process that checks its own memory all the time, and that CRIU dumps, ends and restores. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { childrenOf, stateOf } from '../harness/procfs.js';
import type { TempDir } from '../harness/temp.js';
import { waitFor } from '../harness/wait.js';
import { criu } from './criu.js';

const COUNTER = new URL('../targets/build/counter', import.meta.url).pathname;

/** `namespace`: it is the first process of a pid namespace of its own. */
export const KINDS = ['plain', 'threads', 'shared', 'hidden', 'namespace'] as const;
export type CounterKind = (typeof KINDS)[number];

export class Counter {
  pid: number;
  readonly pages: number;
  readonly #file: string;
  readonly #started: ChildProcess;

  private constructor(started: ChildProcess, file: string, pages: number) {
    if (started.pid === undefined) throw new Error('The counter was not started');
    this.pid = started.pid;
    this.pages = pages;
    this.#file = file;
    this.#started = started;
  }

  /**
   * Starts one, and waits until it has filled its pages.
   *
   * @param launcher A command that becomes the program which its last arguments name, as `taskset` does.
   */
  static async start(
    dir: TempDir,
    kind: CounterKind,
    pages: number,
    launcher: readonly string[] = [],
  ): Promise<Counter> {
    const file = dir.join('count');
    const own = kind === 'namespace';
    const command = [...launcher, COUNTER, file, `${pages}`, own ? 'plain' : kind];
    const [program = '', ...args] = own
      ? ['unshare', '--pid', '--fork', 'setsid', ...command]
      : command;
    const started = spawn(program, args, { cwd: dir.path, detached: true, stdio: 'ignore' });
    const counter = new Counter(started, file, pages);
    await waitFor('the counter has counted', () => counter.count > pages);
    if (own) [counter.pid] = childrenOf(counter.pid) as [number];
    return counter;
  }

  get count(): number {
    return existsSync(this.#file) ? Number(readFileSync(this.#file, 'latin1')) : 0;
  }

  async stop(): Promise<void> {
    process.kill(this.pid, 'SIGSTOP');
    await waitFor('the counter stands still', () => stateOf(this.pid) === 'T');
  }

  /** Waits until it has looked at all its memory, and counted on. */
  async check(): Promise<void> {
    const end = this.count + this.pages;
    await waitFor('the counter has looked at all its pages', () => {
      if (stateOf(this.pid) === undefined) throw new Error('The counter has ended');
      return this.count > end;
    });
  }

  /** Has CRIU dump and end it. */
  async dump(dir: string, args: string[]): Promise<void> {
    criu('dump', dir, ['--tree', `${this.pid}`, ...args]);
    await waitFor('the counter has ended', () => this.#started.exitCode !== null || this.#ended());
  }

  /** Has CRIU restore it, stopped if it was. */
  restore(dir: string): void {
    criu('restore', dir, ['--restore-detached', '--pidfile', 'pid']);
    this.pid = Number(readFileSync(`${dir}/pid`, 'latin1'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (stateOf(this.pid) !== undefined) process.kill(this.pid, 'SIGKILL');
    await waitFor('the counter is gone', () => stateOf(this.pid) === undefined);
    await waitFor('what started it is gone', () => this.#ended());
  }

  #ended(): boolean {
    return this.#started.exitCode !== null || this.#started.signalCode !== null;
  }
}
