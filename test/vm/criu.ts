/** CRIU, which nobody here wrote: runs it, and shows its log if it fails. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { scaledMs } from '../harness/time.js';

/**
 * Runs `criu ACTION` with its images in `dir`.
 *
 * @throws If it fails, with the end of its log.
 */
export function criu(action: string, dir: string, args: string[] = []): void {
  const log = `${action}.log`;
  const all = [action, '--images-dir', dir, '--log-file', log, '-v4', ...args];
  const { status, signal, error } = spawnSync('criu', all, {
    stdio: 'ignore',
    timeout: scaledMs(10_000),
  });
  if (status === 0) return;
  const why = error?.message ?? signal ?? `exit status ${status}`;
  throw new Error(`criu ${all.join(' ')}: ${why}\n${endOf(join(dir, log))}`);
}

function endOf(log: string): string {
  if (!existsSync(log)) return 'no log';
  return readFileSync(log, 'latin1').split('\n').slice(-40).join('\n');
}
