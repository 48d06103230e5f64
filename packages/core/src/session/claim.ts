/** Keeps a process to one dump or restore at a time, over all programs that use Sluice. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { SluiceError } from '../errors.js';
import type { TargetIdentity } from './capture.js';

/**
 * Claims a process until `close`, or until this program ends. Tracing does not do it: between attaching
 * and the freeze nobody traces the process, and of two dumps that watch it each would take marks of
 * written pages from the other.
 *
 * A name in the abstract namespace of sockets serves, which goes with its owner and is no file. It
 * reaches as far as the network namespace.
 *
 * @throws `ERR_SLUICE_ALREADY_TRACED`
 */
export async function claimTarget({
  pid,
  startTimeTicks,
}: TargetIdentity): Promise<{ close(): void }> {
  const server = createServer((socket) => socket.destroy());
  try {
    server.listen({ path: `\0sluice-target-${pid}-${startTimeTicks}`, exclusive: true });
    await once(server, 'listening');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
      // Where there are no such sockets, it goes without.
      return { close: () => {} };
    }
    throw new SluiceError(
      'ERR_SLUICE_ALREADY_TRACED',
      `Process ${pid} is being dumped or restored already`,
      { pid, cause },
    );
  }
  server.unref();
  return { close: () => server.close() };
}
