/** A dumper in a process of its own, which can be stopped, limited, and made to hang. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type FaultSpec, toFaults } from './faults.js';
import { waitFor, within } from './wait.js';

const PROGRAM = fileURLToPath(new URL('dumper.mjs', import.meta.url));

export interface Job {
  work: 'dump' | 'core' | 'predump' | 'restore';
  pid: number;
  /** Those of the function, and for a restore the directory of the image. */
  options: object;
  faults?: FaultSpec[];
  /** When its main thread hangs: when it sees the target frozen, or when it holds it. */
  block?: 'frozen' | 'held';
  /** What it does with a held target. */
  release?: 'resume' | 'leaveStopped' | 'kill';
}

export interface Outcome {
  /** null: it went well. */
  code: string | null;
  /** What the function returned. */
  result?: { total_time?: number; frozen_time?: number };
  message?: string;
  thawed?: boolean;
  syscall?: string;
  errno?: number;
}

export interface Ending {
  outcome: Outcome | undefined;
  status: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
}

/** A command in front of another, like `prlimit --nofile=20`. */
export type Wrapper = readonly string[];

export class Dumper implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #closed: Promise<unknown>;
  #stderr = '';

  constructor({ faults = [], ...job }: Job, wrapper: Wrapper = []) {
    const text = JSON.stringify({ ...job, faults: toFaults(faults) });
    const [command = '', ...args] = [...wrapper, process.execPath, PROGRAM, text];
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#closed = once(this.child, 'close');
    const { stdin, stdout, stderr } = this.child;
    stdin?.on('error', () => undefined);
    stderr?.setEncoding('utf8').on('data', (part: string) => {
      this.#stderr += part;
    });
    if (stdout !== null) {
      createInterface({ input: stdout }).on('line', (line) => this.#lines.push(line));
    }
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  get hangs(): boolean {
    return this.#lines.includes('hangs');
  }

  /** Whether its main thread hangs before it ends. */
  async untilHangs(): Promise<boolean> {
    await waitFor('the dumper hangs', () => this.hangs || !this.running);
    return this.hangs;
  }

  /** Lets its main thread go on. */
  goOn(): void {
    this.child.stdin?.write('\n');
  }

  /** Waits until it ends by itself. */
  async ended(): Promise<Ending> {
    await within('the dumper to end', this.#closed);
    const last = this.#lines.at(-1) ?? '';
    return {
      outcome: last.startsWith('{') ? (JSON.parse(last) as Outcome) : undefined,
      status: this.child.exitCode,
      signal: this.child.signalCode,
      stderr: this.#stderr,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.running) this.child.kill('SIGKILL');
    await within('the dumper to be gone', this.#closed);
  }
}
