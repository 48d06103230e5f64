/** The worker's side: runs calls and turns what comes of them into messages. */
import type { MessagePort } from 'node:worker_threads';
import { toWire } from './error_transport.js';
import {
  type CallMessage,
  END,
  type OpTable,
  type Outcome,
  READY,
  type ReplyMessage,
} from './protocol.js';
import { transferables } from './transfer.js';

/** Calls one function of a table, if it is among the allowed ones. */
export function perform(
  table: OpTable,
  allowed: readonly string[],
  op: string,
  args: unknown[],
): Outcome {
  if (op === READY) return { ok: true, value: undefined };
  try {
    const run = allowed.includes(op) ? table[op] : undefined;
    if (run === undefined) throw new TypeError(`Not an operation of this worker: ${op}`);
    return { ok: true, value: run(...(args as never[])) };
  } catch (thrown) {
    return { ok: false, error: toWire(thrown) };
  }
}

/** Buffers to move rather than copy with an outcome. */
export function transferablesOf(outcome: Outcome): ArrayBuffer[] {
  return outcome.ok ? transferables(outcome.value) : [];
}

/**
 * Serves calls from `port` one by one, in order, on this thread, until told to end or until the other
 * side is gone.
 */
export function serve(
  port: MessagePort,
  table: OpTable,
  allowed: readonly string[],
): Promise<void> {
  return new Promise((resolve) => {
    port.on('close', resolve);
    port.on('message', (message: CallMessage | typeof END) => {
      if (message === END) {
        port.close();
        return;
      }
      const outcome = perform(table, allowed, message.op, message.args);
      const reply: ReplyMessage = { id: message.id, outcome };
      port.postMessage(reply, transferablesOf(outcome));
    });
  });
}
