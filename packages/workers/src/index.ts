/** Worker threads of Sluice: control and lanes, each pinned to a thread, and drains. */
export { type Crew, createCrew, createLoner, type DrainPool, type Loner } from './crew.js';
export { fromWire, toWire, type WireError, WorkerDiedError } from './error_transport.js';
export { leaveBehind } from './left_behind.js';
export { PinnedWorker, type StartPinnedTask } from './pinned_worker.js';
export type { DrainOp, OpTable, PinnedOp } from './protocol.js';
export { serve } from './serve.js';
export { transferables } from './transfer.js';
