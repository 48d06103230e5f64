/** The threads of one session: control and lanes, pinned, and a pool of drains. */
import { SHARE_ENV } from 'node:worker_threads';
import type { Addon } from '@sluice/native';
import { Piscina } from 'piscina';
import { fromWire, WorkerDiedError } from './error_transport.js';
import { leaveBehind } from './left_behind.js';
import { PinnedWorker } from './pinned_worker.js';
import { type DrainOp, type Outcome, READY } from './protocol.js';

const ENTRY = new URL('./entry.cjs', import.meta.url).href;

const LET_GO_MS = 100;

/** Runs calls on whichever drain worker is free. */
export interface DrainPool {
  /** Resolves when its threads have loaded what they need; else the first calls wait for that. */
  ready(): Promise<void>;
  /** @throws What the addon throws; `WorkerDiedError` if the thread died. */
  call<Op extends DrainOp>(op: Op, ...args: Parameters<Addon[Op]>): Promise<ReturnType<Addon[Op]>>;
}

/** All threads of one session. */
export interface Crew {
  readonly control: PinnedWorker;
  readonly lanes: readonly PinnedWorker[];
  readonly drains: DrainPool;
  /** Whether its threads keep the process alive; they do from the start. */
  keepAlive(alive: boolean): void;
  /**
   * Ends all threads. Waits for calls that still run in native code: cancel the session first. If some
   * hang there, `hung`, their threads are left behind. Never rejects.
   */
  close(hung?: boolean): Promise<void>;
}

/**
 * Starts `lanes` + `drains` + 1 threads. They keep the process alive only while calls run or the
 * pinned ones are not closed.
 *
 * @throws `WorkerDiedError` if a thread cannot be started at all.
 */
export function createCrew({ lanes, drains }: { lanes: number; drains: number }): Crew {
  const pinnedPool = startPool('pinned', lanes + 1);
  let drainPool: Piscina;
  try {
    drainPool = startPool('drain', drains);
  } catch (error) {
    void pinnedPool.destroy();
    throw error;
  }
  const pin = (role: string) =>
    new PinnedWorker(role, (port) => pinnedPool.run({ port }, { transferList: [port] }));
  const control = pin('control');
  const pinnedLanes = Array.from({ length: lanes }, (_, lane) => pin(`lane ${lane}`));
  const pinned = [control, ...pinnedLanes];
  let closed = false;
  const threads = () => [...pinnedPool.threads, ...drainPool.threads];
  const destroy = () => Promise.all([pinnedPool.destroy(), drainPool.destroy()]);
  return {
    control,
    lanes: pinnedLanes,
    drains: {
      async ready() {
        await Promise.all(drainPool.threads.map(() => drainPool.run({ op: READY, args: [] })));
      },
      async call(op, ...args) {
        // A pool that was destroyed would start new workers for a new task.
        if (closed) throw new WorkerDiedError('drain', 'it was ended');
        return callDrain(drainPool, op, args);
      },
    },
    keepAlive(alive) {
      for (const worker of pinned) worker.keepAlive(alive);
      for (const thread of threads()) {
        if (alive) thread.ref();
        else thread.unref();
      }
    },
    async close(hung = false) {
      closed = true;
      if (hung) {
        const left = threads();
        const ending = destroy();
        leaveBehind(ending);
        // Being ended keeps them alive, and the pool sees to that once more at a moment of its own.
        const letGo = () => {
          for (const thread of left) thread.unref();
        };
        const timer = setInterval(letGo, LET_GO_MS).unref();
        void ending.finally(() => clearInterval(timer));
        return;
      }
      await Promise.all(pinned.map((worker) => worker.end()));
      await destroy();
    },
  };
}

/** One pinned thread by itself. */
export interface Loner {
  readonly worker: PinnedWorker;
  /** Ends the thread after the calls made so far. Never rejects. */
  close(): Promise<void>;
}

/**
 * Starts one pinned thread.
 *
 * @param role For messages, like `control`.
 * @throws `WorkerDiedError` if it cannot be started at all.
 */
export function createLoner(role: string): Loner {
  const pool = startPool('pinned', 1);
  const worker = new PinnedWorker(role, (port) => pool.run({ port }, { transferList: [port] }));
  return {
    worker,
    async close() {
      await worker.end();
      await pool.destroy();
    },
  };
}

function startPool(name: 'pinned' | 'drain', threads: number): Piscina {
  try {
    const pool = new Piscina({
      filename: ENTRY,
      name,
      minThreads: threads,
      maxThreads: threads,
      // Idle workers sleep in the event loop, where a pinned task can take messages.
      atomics: 'disabled',
      // They run a few lines of JavaScript: a full-size heap per thread would be waste.
      resourceLimits: { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 1 },
      env: SHARE_ENV,
      // Flags meant for the main program, like --inspect or --import, have no use here.
      execArgv: [],
      argv: [],
      trackUnmanagedFds: false,
      recordTiming: false,
    });
    // The death of a worker without a task; it shows in the next call, if there is one.
    pool.on('error', () => {});
    return pool;
  } catch (cause) {
    throw new WorkerDiedError(name, cause);
  }
}

async function callDrain<Op extends DrainOp>(
  pool: Piscina,
  op: Op,
  args: Parameters<Addon[Op]>,
): Promise<ReturnType<Addon[Op]>> {
  let outcome: Outcome;
  try {
    outcome = await pool.run({ op, args });
  } catch (cause) {
    throw new WorkerDiedError('drain', cause);
  }
  if (!outcome.ok) throw fromWire(outcome.error);
  return outcome.value as ReturnType<Addon[Op]>;
}
