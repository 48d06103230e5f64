/** Which process a pid means, and whether it can be dumped. Looks only. */
import { readFile } from 'node:fs/promises';
import { addon, type TargetFacts } from '@sluice/native';
import { ERRORS, fromNative, SluiceError, type SluiceErrorCode } from '../errors.js';

/** Position of the start time (field 22 of proc_pid_stat(5)) after the name, which is field 2. */
const START_TIME_INDEX = 22 - 3;

/**
 * Looks at a process without touching it.
 *
 * @throws The reason why it cannot be dumped, as `SluiceError`.
 */
export async function identify(
  pid: number,
): Promise<{ facts: TargetFacts; startTimeTicks: bigint }> {
  try {
    const facts = addon.targetFacts(pid);
    if (facts.refusal !== '') throw refusalOf(facts);
    return { facts, startTimeTicks: await readStartTime(pid) };
  } catch (error) {
    throw fromNative(error, { pid });
  }
}

/** The public code for a refusal of `TargetFacts`, which comes with or without prefix. */
export function codeOfRefusal(refusal: string): SluiceErrorCode {
  const code = refusal.startsWith('ERR_SLUICE_') ? refusal : `ERR_SLUICE_${refusal}`;
  return Object.hasOwn(ERRORS, code) ? (code as SluiceErrorCode) : 'ERR_SLUICE_SYSTEM';
}

function refusalOf({ pid, refusal, refusalDetail }: TargetFacts): SluiceError {
  const code = codeOfRefusal(refusal);
  return new SluiceError(code, refusalDetail || ERRORS[code].summary, { pid });
}

async function readStartTime(pid: number): Promise<bigint> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  } catch (cause) {
    throw new SluiceError('ERR_SLUICE_NO_SUCH_PROCESS', `There is no process ${pid} any more`, {
      pid,
      cause,
    });
  }
  // The name may hold blanks and parentheses of its own.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return BigInt(fields[START_TIME_INDEX] ?? 0);
}
