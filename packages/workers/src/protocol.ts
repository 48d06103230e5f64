/** What travels between the main thread and the workers. All of it survives a structured clone. */
import type { Addon } from '@sluice/native';
import type { WireError } from './error_transport.js';

/** Calls of control, lanes and restores, which belong to the thread that attached, and what blocks. */
export const PINNED_OPS = [
  'controlAttach',
  'controlPrepare',
  'controlRepeat',
  'controlCapture',
  'controlRelease',
  'controlRequireHeld',
  'controlDetach',
  'laneAttach',
  'laneTrack',
  'laneCapture',
  'laneDetach',
  'restoreAttach',
  'restoreCheck',
  'restoreFreeze',
  'restoreHolds',
  'restoreApply',
  'restoreWrite',
  'restoreFinish',
  'restoreThaw',
  'restoreDetach',
  'cleanTarget',
] as const satisfies readonly (keyof Addon)[];

/** Calls that any drain worker may take. */
export const DRAIN_OPS = [
  'drainOpen',
  'drainRun',
  'drainSeal',
  'drainClear',
  'crc32cFile',
] as const satisfies readonly (keyof Addon)[];

export type PinnedOp = (typeof PINNED_OPS)[number];
export type DrainOp = (typeof DRAIN_OPS)[number];

/** Functions that a worker runs on request; the addon is one such table. */
export type OpTable = Readonly<Record<string, (...args: never[]) => unknown>>;

export interface CallMessage {
  /** Chosen by the caller, comes back in the reply. */
  id: number;
  op: string;
  args: unknown[];
}

/** What came of a call. */
export type Outcome = { ok: true; value: unknown } | { ok: false; error: WireError };

export interface ReplyMessage {
  id: number;
  outcome: Outcome;
}

/** Op that does nothing: its reply tells that the thread has started. */
export const READY = 'ready';

/** Ends a pinned task; the worker is free again. */
export const END = 'end';
