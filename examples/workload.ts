/** Starts, asks and ends the processes of the workload. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { LoadCommand, LoadWindow } from './load-generator.js';

export interface WorkloadOptions {
  keys: number;
  clients: number;
}

/** A key-value server and its clients, each side a process of its own. */
export class Workload implements AsyncDisposable {
  readonly #server: ChildProcess;
  readonly #load: ChildProcess;

  private constructor(server: ChildProcess, load: ChildProcess) {
    this.#server = server;
    this.#load = load;
  }

  /** The server holds all its values when this resolves; its clients are idle. */
  static async start({ keys, clients }: WorkloadOptions): Promise<Workload> {
    const server = forkBeside('./kv-server.js', [keys]);
    try {
      const port = await reply<number>(server);
      return new Workload(server, forkBeside('./load-generator.js', [port, keys, clients]));
    } catch (error) {
      await end(server);
      throw error;
    }
  }

  /** Of the server. */
  get pid(): number {
    return this.#server.pid ?? 0;
  }

  /** Makes the clients do something; resolves with what they saw since they were asked before. */
  async clients(command: LoadCommand): Promise<LoadWindow> {
    const answer = reply<LoadWindow>(this.#load);
    this.#load.send(command);
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([end(this.#load), end(this.#server)]);
  }
}

function forkBeside(module: string, args: readonly number[]): ChildProcess {
  return fork(new URL(module, import.meta.url), args.map(String));
}

/** The next message of a child, or an error if it ends instead. */
async function reply<Message>(child: ChildProcess): Promise<Message> {
  const [ended, answered] = [new AbortController(), new AbortController()];
  const message = once(child, 'message', { signal: ended.signal }).then(([value]) => value);
  const exit = once(child, 'exit', { signal: answered.signal }).then(([code, signal]) => {
    throw new Error(`A process of the workload ended: ${signal ?? `exit status ${code}`}`);
  });
  try {
    return await Promise.race([message, exit]);
  } finally {
    for (const loser of [message, exit]) loser.catch(() => {});
    ended.abort();
    answered.abort();
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  // The one signal that ends a stopped process as well.
  child.kill('SIGKILL');
  await exit;
}
