/** Programs of the system that tests dump or use: where they are, how they are started and ended. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { stateOf } from './procfs.js';
import { within } from './wait.js';

const POSTGRESQL = '/usr/lib/postgresql';
/** Of Debian's `nobody`; only the number counts. */
const UNPRIVILEGED = 65534;

/** Why a test cannot have its programs, or undefined. */
export function missingPrograms(debianPackage: string, names: string[]): string | undefined {
  const missing = names.filter((name) => findProgram(name) === undefined);
  if (missing.length === 0) return undefined;
  return `${missing.join(', ')} not found: needs the Debian package ${debianPackage}`;
}

/** On PATH, or where Debian puts what it keeps off PATH. */
function findProgram(name: string): string | undefined {
  const versions = entriesOf(POSTGRESQL).sort((a, b) => Number(b) - Number(a));
  const places = [
    ...(process.env.PATH ?? '').split(':').filter((place) => place !== ''),
    ...versions.map((version) => join(POSTGRESQL, version, 'bin')),
  ];
  return places.map((place) => join(place, name)).find(isExecutable);
}

function entriesOf(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A user for programs that refuse to run as root; nothing to change for anybody else. */
export function unprivileged(): { uid?: number; gid?: number } {
  return process.getuid?.() === 0 ? { uid: UNPRIVILEGED, gid: UNPRIVILEGED } : {};
}

export interface ProgramOptions {
  cwd?: string;
  uid?: number;
  gid?: number;
  /** What ends it in good order. */
  endSignal?: NodeJS.Signals;
}

/** A running program. Ended at the end of its scope at the latest. */
export class Program implements AsyncDisposable {
  static readonly #left = new Set<Program>();
  readonly pid: number;
  readonly child: ChildProcess;
  readonly #name: string;
  readonly #endSignal: NodeJS.Signals;
  readonly #closed: Promise<unknown>;
  #stdout = '';
  #stderr = '';

  constructor(name: string, args: string[], options: ProgramOptions = {}) {
    const { endSignal = 'SIGTERM', ...rest } = options;
    const path = findProgram(name);
    if (path === undefined) throw new Error(`There is no ${name}`);
    const env = { ...process.env, LC_ALL: 'C' };
    this.child = spawn(path, args, { ...rest, env, stdio: ['pipe', 'pipe', 'pipe'] });
    this.#name = name;
    this.#endSignal = endSignal;
    this.#closed = once(this.child, 'close');
    this.child.stdin?.on('error', () => undefined);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    this.pid = this.child.pid ?? 0;
    Program.#left.add(this);
  }

  get running(): boolean {
    const { exitCode, signalCode } = this.child;
    return exitCode === null && signalCode === null;
  }

  /** All that it has said. */
  get output(): string {
    return `${this.#stdout}${this.#stderr}`;
  }

  /** Waits until it ends by itself; fails if that is not a success. Resolves to its standard output. */
  async succeeded(limitMs?: number): Promise<string> {
    await within(`${this.#name} to end`, this.#closed, limitMs);
    Program.#left.delete(this);
    const { exitCode, signalCode } = this.child;
    if (exitCode === 0 && this.#stderr === '') return this.#stdout;
    throw new Error(`${this.#name} ended with ${signalCode ?? exitCode}: ${this.output}`);
  }

  /** Ends it in good order, or else at once. */
  async end(): Promise<void> {
    try {
      if (this.running) {
        this.child.kill(this.#endSignal);
        if (stateOf(this.pid) === 'T') this.child.kill('SIGCONT');
      }
      await within(`${this.#name} to end`, this.#closed);
    } finally {
      this.child.kill('SIGKILL');
      Program.#left.delete(this);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }

  /** Those that are still running. */
  static left(): string[] {
    return [...Program.#left].filter(({ running }) => running).map((program) => program.#name);
  }

  static async endLeft(): Promise<void> {
    for (const program of Program.#left) await program.end();
  }
}

/** Runs a program to its end, which must be a success; resolves to its standard output. */
export function runProgram(
  name: string,
  args: string[],
  input = '',
  options: ProgramOptions = {},
): Promise<string> {
  const program = new Program(name, args, options);
  program.child.stdin?.end(input);
  return program.succeeded();
}
