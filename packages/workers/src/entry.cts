/**
 * What piscina loads in each worker. piscina would load an ES module with require(), and Node 20
 * aborts the whole process if the thread is ended in the middle of that; import() can be ended at any
 * time.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Outcome } from './protocol.js' with { 'resolution-mode': 'import' };

/** A task that lasts as long as the session, so that all its calls run on one thread. */
async function pinned(task: { port: MessagePort }): Promise<void> {
  return (await import('./tasks.js')).pinned(task);
}

/** One call. */
async function drain(task: { op: string; args: unknown[] }): Promise<Outcome> {
  return (await import('./tasks.js')).drain(task);
}

export = { pinned, drain };
