/**
 * Errors across threads. A structured clone keeps name, message and stack of an error and drops all
 * own properties, among them the code; so errors travel as plain data and are rebuilt.
 */

/** An error as plain data. */
export interface WireError {
  name: string;
  message: string;
  stack?: string | undefined;
  code?: string | undefined;
  errno?: number | undefined;
  syscall?: string | undefined;
  pid?: number | undefined;
}

/** An error as data that survives a structured clone, whatever was thrown. */
export function toWire(thrown: unknown): WireError {
  if (!(thrown instanceof Error)) return { name: 'Error', message: String(thrown) };
  const { name, message, stack } = thrown;
  const { code, errno, syscall, pid } = thrown as unknown as Record<string, unknown>;
  return {
    name,
    message,
    stack,
    code: typeof code === 'string' ? code : undefined,
    errno: typeof errno === 'number' ? errno : undefined,
    syscall: typeof syscall === 'string' ? syscall : undefined,
    pid: typeof pid === 'number' ? pid : undefined,
  };
}

/** The error again, with its own properties and the stack of the thread that threw it. */
export function fromWire(wire: WireError): Error {
  const error = new Error(wire.message);
  for (const name of ['name', 'stack'] as const) {
    if (wire[name] !== undefined) {
      Object.defineProperty(error, name, {
        value: wire[name],
        configurable: true,
        writable: true,
      });
    }
  }
  for (const name of ['code', 'errno', 'syscall', 'pid'] as const) {
    if (wire[name] !== undefined) Object.assign(error, { [name]: wire[name] });
  }
  return error;
}

/** A worker thread died, or could not be started. */
export class WorkerDiedError extends Error {
  readonly code = 'ERR_SLUICE_WORKER';

  constructor(who: string, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause);
    super(`The ${who} worker died: ${why}`, { cause });
  }
}
Object.defineProperty(WorkerDiedError.prototype, 'name', { value: 'WorkerDiedError' });
