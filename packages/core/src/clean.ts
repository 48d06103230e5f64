/** Removes what a dumper that was killed left in a process. */
import { createLoner } from '@sluice/workers';
import { fromNative, SluiceError } from './errors.js';
import { checkPid, type Logger } from './session/options.js';

/** What was found in a process and removed. */
export interface CleanResult {
  pid: number;
  /** Mappings of 32 KiB, scratch memory of helpers. */
  mappings: number;
  /** Children that had ended, helpers and twins. */
  zombies: number;
}

/**
 * Removes what a dumper that was killed by SIGKILL left in a process: zombies of its helpers and twin, and
 * their scratch memory. Stops one thread for a fraction of a millisecond if there is any, else touches
 * nothing. The next dump of the process does the same by itself.
 *
 * @throws `SluiceError`: `ERR_SLUICE_INJECTION` if something is still there; what keeps a process from being
 * dumped, like `ERR_SLUICE_PERMISSION`, or `ERR_SLUICE_ALREADY_TRACED` while a dump of it is under way.
 */
export async function cleanTarget(
  pid: number,
  { logger }: { logger?: Logger | undefined } = {},
): Promise<CleanResult> {
  checkPid(pid);
  const loner = createLoner('clean');
  try {
    const { mappings, zombies, left } = await loner.worker.call('cleanTarget', pid);
    if (left.length > 0) throw new SluiceError('ERR_SLUICE_INJECTION', left.join('; '), { pid });
    const result = { pid, mappings, zombies };
    logger?.info?.(result, 'cleaned');
    return result;
  } catch (error) {
    throw fromNative(error, { pid });
  } finally {
    await loner.close();
  }
}
