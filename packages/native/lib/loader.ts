/**
 * Finds and loads the C++ addon: the local build first, so that a developer never runs an installed
 * binary by mistake, then the platform package. If neither loads, one error says what was tried.
 */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** One place that was tried, and why it did not serve. */
export interface LoadAttempt {
  readonly what: string;
  readonly reason: string;
}

/** No usable addon was found on this machine. */
export class NativeLoadError extends Error {
  override readonly name = 'NativeLoadError';
  readonly code = 'ERR_SLUICE_NATIVE_LOAD';
  readonly attempts: readonly LoadAttempt[];

  constructor(attempts: readonly LoadAttempt[], advice: string, causes: readonly unknown[]) {
    const tried = attempts.map(({ what, reason }) => `  - ${what}: ${reason}`).join('\n');
    super(`The native part of Sluice could not be loaded. Tried:\n${tried}\n${advice}`, {
      cause: new AggregateError(causes),
    });
    this.attempts = attempts;
  }
}

const PLATFORM_PACKAGE = '@sluice/native-linux-x64';

const CANDIDATES: readonly { what: string; specifier: string }[] = [
  { what: 'local build packages/native/build/sluice.node', specifier: '../build/sluice.node' },
  { what: `platform package ${PLATFORM_PACKAGE}`, specifier: PLATFORM_PACKAGE },
];

/** Loads the addon; the caller knows its shape. */
export function loadAddon(): unknown {
  const attempts: LoadAttempt[] = [];
  const causes: unknown[] = [];
  for (const { what, specifier } of CANDIDATES) {
    try {
      return require(specifier);
    } catch (error) {
      attempts.push({ what, reason: reasonOf(error) });
      causes.push(error);
    }
  }
  throw new NativeLoadError(attempts, advice(), causes);
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('code' in error && error.code === 'MODULE_NOT_FOUND') return 'not found';
  // Node appends the stack of requires to the message; the first line is the reason.
  return error.message.split('\n', 1)[0] ?? error.message;
}

function advice(): string {
  const here = `${process.platform} ${process.arch}, Node ${process.versions.node}`;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    return `Sluice runs on Linux x64 only; this is ${here}.`;
  }
  return `In a clone of the repository run "npm start", which builds it (needs g++ and make). In an application install ${PLATFORM_PACKAGE} in the version of @sluice/native. This is ${here}.`;
}
