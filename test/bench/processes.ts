/** The processes of the benchmark. All of them end with it, whatever happens. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const GRACE_MS = 5000;

interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** A program that said it cannot do what it should. */
export class ProgramError extends Error {
  readonly status: number | null;

  constructor(name: string, status: number | null, said: string) {
    super(`${name}: ${said.trim() || `exit status ${status}`}`);
    this.status = status;
  }
}

const running = new Map<ChildProcess, 'itself' | 'group'>();
let ending = false;

function start(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
  if (ending) throw new Error('interrupted');
  const child = spawn(command, args, options);
  running.set(child, options.detached === true ? 'group' : 'itself');
  // 'close' comes also for what could not be started.
  child.on('close', () => running.delete(child));
  child.stdin?.on('error', () => {});
  return child;
}

/** Ends everything that was started and is not over; nothing can be started any more. */
export async function endAll(): Promise<void> {
  ending = true;
  await Promise.all([...running].map(([child, what]) => end(child, what)));
}

async function end(child: ChildProcess, what: 'itself' | 'group'): Promise<void> {
  const { pid } = child;
  if (pid === undefined) return;
  const closed = once(child, 'close');
  const kill = (signal: NodeJS.Signals) => {
    try {
      process.kill(what === 'group' ? -pid : pid, signal);
    } catch {
      // It is over.
    }
  };
  kill('SIGTERM');
  const timer = setTimeout(kill, GRACE_MS, 'SIGKILL');
  await closed;
  clearTimeout(timer);
}

async function toEnd(child: ChildProcess): Promise<Ended> {
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, stdout, stderr };
}

/**
 * Runs a program to its end. Its standard input stays open until then and ends if the benchmark dies.
 *
 * @param options `group`: it starts processes of its own, and they are ended with it.
 * @returns Its standard output.
 * @throws ProgramError for an exit status other than 0.
 */
export async function runProgram(
  name: string,
  command: string,
  args: readonly string[],
  options: { group?: boolean } = {},
): Promise<string> {
  const child = start(command, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: options.group === true,
  });
  const { status, stdout, stderr } = await toEnd(child);
  if (status !== 0) throw new ProgramError(name, status, stderr);
  return stdout;
}

/** A program that answers each line on its standard input with one line of JSON. */
export class Conversation {
  readonly pid: number;
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #ended: Promise<unknown>;

  constructor(name: string, command: string, args: readonly string[]) {
    this.#name = name;
    this.#child = start(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#ended = once(this.#child, 'close').catch(() => {});
    const { pid, stdout } = this.#child;
    if (pid === undefined || stdout === null) throw new Error(`${name} cannot be started`);
    this.pid = pid;
    this.#answers = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  /** The next line that it prints. */
  async answer<Answer>(): Promise<Answer> {
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error(`${this.#name} has ended`);
    return JSON.parse(value) as Answer;
  }

  ask<Answer>(command: string): Promise<Answer> {
    this.#child.stdin?.write(`${command}\n`);
    return this.answer();
  }

  /** Waits for its end, which comes with that of its standard input. */
  async close(): Promise<void> {
    this.#child.stdin?.end();
    await this.#ended;
  }
}
