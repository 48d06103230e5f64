/**
 * The main thread's handle of one pinned worker: a piscina task that lasts until `end`, and a port on
 * which it takes calls.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { Addon } from '@sluice/native';
import { fromWire, WorkerDiedError } from './error_transport.js';
import { type CallMessage, END, type PinnedOp, READY, type ReplyMessage } from './protocol.js';

interface Pending {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** Starts the task of a pinned worker; resolves when it was ended, rejects when its thread died. */
export type StartPinnedTask = (port: MessagePort) => Promise<unknown>;

/** A thread that is reserved for one role of one session. */
export class PinnedWorker {
  readonly #role: string;
  readonly #port: MessagePort;
  readonly #task: Promise<void>;
  readonly #pending = new Map<number, Pending>();
  #nextId = 0;
  #gone: Error | undefined;

  /** @param role For messages, like `lane 0`. */
  constructor(role: string, start: StartPinnedTask) {
    this.#role = role;
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#port.on('message', (reply: ReplyMessage) => this.#settle(reply));
    this.#task = start(port2).then(
      () => this.#leave(new WorkerDiedError(this.#role, 'it was ended')),
      (cause: unknown) => this.#leave(new WorkerDiedError(this.#role, cause)),
    );
  }

  /**
   * Runs a function of the addon on this worker's thread, after the calls made before.
   *
   * @throws What the addon throws, with its own properties; `WorkerDiedError` if the thread died.
   */
  call<Op extends PinnedOp>(
    op: Op,
    ...args: Parameters<Addon[Op]>
  ): Promise<ReturnType<Addon[Op]>> {
    return this.#send(op, args) as Promise<ReturnType<Addon[Op]>>;
  }

  /**
   * Resolves when the thread has started and takes calls.
   *
   * @throws `WorkerDiedError` if it could not be started.
   */
  async ready(): Promise<void> {
    await this.#send(READY, []);
  }

  /** Whether it keeps the process alive. */
  keepAlive(alive: boolean): void {
    if (alive) this.#port.ref();
    else this.#port.unref();
  }

  /** Frees the worker after the calls made so far; never rejects. */
  async end(): Promise<void> {
    if (this.#gone === undefined) this.#port.postMessage(END);
    await this.#task;
  }

  #send(op: string, args: unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#gone !== undefined) {
        reject(this.#gone);
        return;
      }
      const message: CallMessage = { id: this.#nextId++, op, args };
      this.#pending.set(message.id, { resolve, reject });
      this.#port.postMessage(message);
    });
  }

  #settle({ id, outcome }: ReplyMessage): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (outcome.ok) pending?.resolve(outcome.value);
    else pending?.reject(fromWire(outcome.error));
  }

  #leave(error: Error): void {
    this.#gone = error;
    // The end of the task comes by another port and may overtake replies that are on their way.
    for (
      let next = receiveMessageOnPort(this.#port);
      next;
      next = receiveMessageOnPort(this.#port)
    ) {
      this.#settle(next.message);
    }
    this.#port.close();
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}
