/** What workers do. Imports little: every worker pays for it in memory. */
import type { MessagePort } from 'node:worker_threads';
import { addon } from '@sluice/native';
import { DRAIN_OPS, type OpTable, type Outcome, PINNED_OPS } from './protocol.js';
import { perform, serve } from './serve.js';

const table = addon as unknown as OpTable;

/** A task that lasts as long as the session, so that all its calls run on one thread. */
export function pinned({ port }: { port: MessagePort }): Promise<void> {
  return serve(port, table, PINNED_OPS);
}

/** One call. Its results are small enough to be copied. */
export function drain({ op, args }: { op: string; args: unknown[] }): Outcome {
  return perform(table, DRAIN_OPS, op, args);
}
