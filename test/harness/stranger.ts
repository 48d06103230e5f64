/** Dumps by a user without rights. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/sluice.js', import.meta.url));
export const NOBODY = 65534;

/** The command as another user, for whom this process's rights do not count. */
export function dumpAs(uid: number, pid: number, dir: string, options: string[] = []) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [CLI, 'dump', String(pid), '--out', dir, ...options],
    { uid, gid: uid, encoding: 'utf8', cwd: '/', timeout: 60_000 },
  );
  return { status, stdout, stderr };
}

/** Why nothing can be run as another user, or undefined. */
export function strangerRefusal(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can run a command as another user';
  const { status } = spawnSync(process.execPath, [CLI, '--version'], { uid: NOBODY, gid: NOBODY });
  return status === 0 ? undefined : 'another user cannot read this directory';
}
