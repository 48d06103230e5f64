/**
 * Tracing channel `sluice:dump` of node:diagnostics_channel: `start`, `end`, `asyncStart`, `asyncEnd`
 * and `error` of every dump, for tools that watch a program from inside.
 */
import { tracingChannel } from 'node:diagnostics_channel';

/** What subscribers get; `result` or `error` are added by the channel itself. */
export interface DumpTrace {
  pid: number;
  dir: string;
}

const channel = tracingChannel<unknown, DumpTrace>('sluice:dump');

/** Runs a dump, and tells those who listen, if anybody does. */
export function traceDump<Value>(trace: DumpTrace, dump: () => Promise<Value>): Promise<Value> {
  return channel.hasSubscribers ? channel.tracePromise(dump, trace) : dump();
}
