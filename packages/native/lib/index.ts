/**
 * Typed face of the C++ addon. It is loaded at the first use and not at import, so that a program
 * can import Sluice on a machine where it cannot run, and gets a typed error only when it tries.
 */
import type { Addon } from './contract.js';
import { loadAddon } from './loader.js';

export type * from './contract.js';
export { type LoadAttempt, NativeLoadError } from './loader.js';

/** What the addon throws: an `Error` with these own properties. */
export interface NativeError extends Error {
  /** `ERR_SLUICE_...` */
  code: string;
  /** Positive errno of the system call that failed. */
  errno?: number | undefined;
  /** Name of the system call that failed, like `ptrace`. */
  syscall?: string | undefined;
  /** Process the error is about. */
  pid?: number | undefined;
}

let loaded: Addon | undefined;

/**
 * The addon. Any use throws `NativeLoadError` (code `ERR_SLUICE_NATIVE_LOAD`) if it cannot be loaded
 * here; its functions throw `NativeError`.
 */
export const addon: Addon = new Proxy({} as Addon, {
  get(_, name) {
    loaded ??= loadAddon() as Addon;
    return Reflect.get(loaded, name);
  },
});
