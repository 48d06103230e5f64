/** Starts the programs that the tests dump, talks to them, and ends them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { startTimeOf, stateOf, threadsOf } from './procfs.js';
import { waitFor, within } from './wait.js';

const TARGETS = fileURLToPath(new URL('../targets/', import.meta.url));

/** What a target says when it is set up; each adds its own fields. */
export interface Ready {
  pid: number;
  /** Files that it leaves behind if it is killed. */
  cleanup?: string[];
  [field: string]: unknown;
}

export interface Answer {
  ok: boolean;
  failed?: string[];
  [field: string]: unknown;
}

export interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A running target. Ended at the end of its scope at the latest. */
export class TestTarget<Info extends Ready = Ready> implements AsyncDisposable {
  static readonly #left = new Map<number, string>();
  readonly pid: number;
  readonly info: Info;
  readonly #startTime: string;
  readonly #pipes: Pipes;
  readonly #process: ChildProcess;

  constructor(info: Info, pipes: Pipes, child: ChildProcess) {
    this.pid = info.pid;
    this.info = info;
    this.#pipes = pipes;
    this.#process = child;
    this.#startTime = startTimeOf(info.pid) ?? '';
    TestTarget.#left.set(info.pid, this.#startTime);
  }

  /** Whether this very process is there and has not ended. */
  get alive(): boolean {
    return isAlive(this.pid, this.#startTime);
  }

  /** Sends a line and waits for the line that answers it. */
  async command(line: string): Promise<Answer> {
    this.#pipes.input.write(`${line}\n`);
    return JSON.parse(await this.#pipes.nextLine(`answer to "${line}"`)) as Answer;
  }

  /** The next line that it says by itself. */
  nextLine(): Promise<string> {
    return this.#pipes.nextLine('another line');
  }

  /** Sends a line that is not answered. */
  send(line: string): void {
    this.#pipes.input.write(`${line}\n`);
  }

  /** Lets the target look at itself; an error tells what it found. */
  async check(command = 'check'): Promise<void> {
    const { ok, failed } = await this.command(command);
    if (!ok) throw new Error(`The target found: ${(failed ?? ['no reason given']).join('; ')}`);
  }

  /** Sends it, unless the target has ended. */
  signal(signal: NodeJS.Signals): void {
    // A child keeps its pid until its end was noticed here. One that executes another program in a
    // thread may look as if it had ended.
    if (this.#process.pid === this.pid) {
      this.#process.kill(signal);
    } else if (this.alive) {
      process.kill(this.pid, signal);
    }
  }

  /** Waits until it has ended by itself. */
  async ended(): Promise<void> {
    await waitFor(`process ${this.pid} has ended`, () => !this.alive);
  }

  /** Ends it in the way it is meant to end. */
  async stop(): Promise<void> {
    this.signal('SIGCONT');
    this.#pipes.end();
    try {
      await this.ended();
      await this.#pipes.closed();
    } catch (error) {
      this.signal('SIGKILL');
      throw error;
    } finally {
      await this.#forget();
    }
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.ended();
    await this.#forget();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (TestTarget.#left.has(this.pid)) await this.stop();
  }

  async #forget(): Promise<void> {
    for (const path of this.info.cleanup ?? []) rmSync(path, { force: true });
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      await once(this.#process, 'exit');
    }
    TestTarget.#left.delete(this.pid);
  }

  /** Those that are still running. */
  static left(): number[] {
    return [...TestTarget.#left].filter(([pid, time]) => isAlive(pid, time)).map(([pid]) => pid);
  }

  static async killLeft(): Promise<void> {
    for (const pid of TestTarget.left()) process.kill(pid, 'SIGKILL');
    await waitFor('no target is left', () => TestTarget.left().length === 0);
    TestTarget.#left.clear();
  }
}

/** A target that is a child of this process, which gets its exit event. */
export class ChildTarget<Info extends Ready = Ready> extends TestTarget<Info> {
  /** One entry for each exit event. */
  readonly endings: Ending[] = [];

  constructor(info: Info, pipes: Pipes, child: ChildProcess) {
    super(info, pipes, child);
    child.on('exit', (code, signal) => this.endings.push({ code, signal }));
  }
}

export interface StartOptions {
  env?: NodeJS.ProcessEnv;
  /** User to run as. */
  uid?: number;
  /** Control group to begin in, so that all of its memory is charged there. */
  group?: string;
}

/** Starts a program of test/targets: a C program, or a script by its file name. */
export async function startTarget<Info extends Ready = Ready>(
  name: string,
  args: string[] = [],
  options: StartOptions = {},
): Promise<ChildTarget<Info>> {
  const [command, ...rest] = grouped(commandOf(name, args), options.group);
  const child = spawn(command, rest, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  const pipes = new Pipes(name, child.stdin, child.stdout, child.stderr);
  return new ChildTarget(await ready<Info>(child, pipes), pipes, child);
}

/** The path of a C program of test/targets. */
export function targetPath(name: string): string {
  return `${TARGETS}build/${name}`;
}

/**
 * Starts a command that starts a target, and stays until that has ended.
 *
 * @param pidOf Tells the pid of the target, which may know itself by another one.
 */
export async function startThrough<Info extends Ready = Ready>(
  [command = '', ...args]: string[],
  pidOf: () => Promise<number>,
): Promise<ChildTarget<Info>> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const pipes = new Pipes(command, child.stdin, child.stdout, child.stderr);
  const info = await ready<Info>(child, pipes);
  return new ChildTarget({ ...info, pid: await pidOf() }, pipes, child);
}

/** Starts a program of the system that answers the lines that it is sent. */
export async function startProgram(command: string, args: string[]): Promise<ChildTarget<Ready>> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const pipes = new Pipes(command, child.stdin, child.stdout, child.stderr);
  await once(child, 'spawn');
  return new ChildTarget({ pid: child.pid ?? 0 }, pipes, child);
}

/** Starts it so that it is no child of this process, but of the one that adopts orphans. */
export async function startStranger<Info extends Ready = Ready>(
  name: string,
  args: string[] = [],
): Promise<TestTarget<Info>> {
  // What a shell starts in the background gets no standard input unless it is told to.
  const script = '"$@" <&3 3<&- &';
  const child = spawn('sh', ['-c', script, 'sh', ...commandOf(name, args)], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const [, output, errors, input] = child.stdio;
  if (!output || !errors || !input) throw new Error('A pipe is missing');
  const pipes = new Pipes(name, input as Writable, output, errors);
  const info = await ready<Info>(child, pipes);
  await waitFor('the shell has ended', () => child.exitCode !== null);
  return new TestTarget(info, pipes, child);
}

async function ready<Info extends Ready>(child: ChildProcess, pipes: Pipes): Promise<Info> {
  try {
    return JSON.parse(await pipes.nextLine('being ready')) as Info;
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  }
}

function commandOf(name: string, args: string[]): [string, ...string[]] {
  if (name.endsWith('.mjs')) return [process.execPath, `${TARGETS}${name}`, ...args];
  if (name.endsWith('.py')) return ['python3', `${TARGETS}${name}`, ...args];
  return [targetPath(name), ...args];
}

function grouped(command: [string, ...string[]], group?: string): [string, ...string[]] {
  if (group === undefined) return command;
  return ['sh', '-c', `echo $$ >${group}/cgroup.procs && exec "$@"`, 'sh', ...command];
}

function isAlive(pid: number, startTime: string): boolean {
  return startTimeOf(pid) === startTime && !['Z', 'X', undefined].includes(groupState(pid));
}

/** A process whose first thread has ended goes on as long as it has others. */
function groupState(pid: number): string | undefined {
  const state = stateOf(pid);
  return state === 'Z' && (threadCount(pid) ?? 0) > 1 ? 'S' : state;
}

function threadCount(pid: number): number | undefined {
  try {
    return threadsOf(pid).length;
  } catch {
    return undefined;
  }
}

/** Lines out, lines in. */
class Pipes {
  readonly input: Writable;
  readonly #name: string;
  readonly #lines: string[] = [];
  readonly #output: Readable;
  #errors = '';
  #open = true;
  #onLine: (() => void) | undefined;

  constructor(name: string, input: Writable, output: Readable, errors: Readable) {
    this.#name = name;
    this.input = input;
    this.#output = output;
    // A target that has ended takes no more commands; its not answering tells.
    input.on('error', () => undefined);
    errors.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    const lines = createInterface({ input: output });
    lines.on('line', (line) => {
      this.#lines.push(line);
      this.#onLine?.();
    });
    lines.on('close', () => {
      this.#open = false;
      this.#onLine?.();
    });
  }

  async nextLine(what: string): Promise<string> {
    const arrived = async () => {
      for (;;) {
        const line = this.#lines.shift();
        if (line !== undefined) return line;
        if (!this.#open) throw new Error(`${this.#name} ended: ${this.#errors}`);
        await new Promise<void>((resolve) => {
          this.#onLine = resolve;
        });
      }
    };
    return within(`${what} of ${this.#name}`, arrived());
  }

  end(): void {
    this.input.end('exit\n');
  }

  /** Nobody holds the other end of its output any more. */
  async closed(): Promise<void> {
    await waitFor(`the output of ${this.#name} is closed`, () => !this.#open);
    this.#output.destroy();
  }
}
