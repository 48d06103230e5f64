/** Which process a pid means, and whether it can be dumped. Looks only. */
import { addon, type TargetFacts } from '@sluice/native';
import { ERRORS, fromNative, SluiceError, type SluiceErrorCode } from '../errors.js';

/**
 * Looks at a process without touching it.
 *
 * @throws The reason why it cannot be dumped, as `SluiceError`.
 */
export function identify(pid: number): TargetFacts {
  let facts: TargetFacts;
  try {
    facts = addon.targetFacts(pid);
  } catch (error) {
    throw fromNative(error, { pid });
  }
  if (facts.refusal !== '') throw refusalOf(facts);
  return facts;
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
