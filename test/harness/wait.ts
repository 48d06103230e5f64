/** Waiting for conditions instead of for time to pass. */
import { setTimeout as sleep } from 'node:timers/promises';
import { scaledMs } from './time.js';

/** Generous: only a hang reaches it. */
export const LIMIT_MS = scaledMs(60_000);

/** Waits until `condition` holds. */
export async function waitFor(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = LIMIT_MS,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`Gave up waiting until ${what}`);
    await sleep(2);
  }
}

/** The value of a promise; an error if it takes longer than anything but a hang would. */
export async function within<Value>(
  what: string,
  promise: PromiseLike<Value>,
  limitMs = LIMIT_MS,
): Promise<Value> {
  const timeout = new AbortController();
  const late = sleep(limitMs, undefined, { signal: timeout.signal }).then(() => {
    throw new Error(`Gave up waiting for ${what}`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    late.catch(() => undefined);
    timeout.abort();
  }
}
