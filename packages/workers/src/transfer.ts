import * as threads from 'node:worker_threads';

// Node 21 and newer refuse to transfer marked buffers, older ones copy them without a word.
const isPinnedDown: (buffer: ArrayBuffer) => boolean =
  'isMarkedAsUntransferable' in threads
    ? (threads.isMarkedAsUntransferable as (buffer: ArrayBuffer) => boolean)
    : () => false;

/**
 * The buffers of a result that can be moved to another thread instead of being copied: those of
 * typed arrays that cover their whole buffer, in the value itself or one level below.
 */
export function transferables(value: unknown): ArrayBuffer[] {
  if (typeof value !== 'object' || value === null) return [];
  const candidates = ArrayBuffer.isView(value) ? [value] : Object.values(value);
  const buffers = new Set<ArrayBuffer>();
  for (const view of candidates) {
    if (!ArrayBuffer.isView(view) || !(view.buffer instanceof ArrayBuffer)) continue;
    // A part of a shared pool must not take the rest of the pool along.
    if (view.byteLength !== view.buffer.byteLength || isPinnedDown(view.buffer)) continue;
    buffers.add(view.buffer);
  }
  return [...buffers];
}
