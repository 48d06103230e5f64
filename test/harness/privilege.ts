/** Runs the command with fewer privileges than this process has. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { SLUICE } from '../unit/cli/run_sluice.js';
import { patiently } from './patient.js';

/** A user that owns nothing. */
export const NOBODY = 65534;

export interface Privileges {
  /** Runs as this user, who has no capabilities. */
  uid?: number;
  /** Capabilities that root goes without, like `sys_admin`; `+sys_admin` after `all` keeps one. */
  without?: readonly string[];
  umask?: string;
  env?: NodeJS.ProcessEnv;
}

export interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `sluice` to its end. */
export function sluiceWith(privileges: Privileges, ...args: string[]): Run {
  const [command, ...rest] = commandLine(privileges, args);
  const options = { ...optionsOf(privileges), encoding: 'utf8', timeout: 60_000 } as const;
  const { status, stdout, stderr } = spawnSync(command, rest, options);
  return { status, stdout, stderr };
}

export function startSluiceWith(privileges: Privileges, ...args: string[]): ChildProcess {
  const [command, ...rest] = commandLine(privileges, args);
  return spawn(command, rest, { ...optionsOf(privileges), stdio: 'ignore' });
}

/** Why commands cannot be run with fewer privileges, or undefined. */
export function privilegeRefusal(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can give up privileges';
  const { error } = spawnSync('setpriv', ['--version']);
  if (error !== undefined) return `no setpriv: ${error.message}`;
  const { status } = sluiceWith({ uid: NOBODY }, '--version');
  return status === 0 ? undefined : 'another user cannot read this directory';
}

function commandLine(
  { umask, without = [] }: Privileges,
  args: readonly string[],
): [string, ...string[]] {
  const command = [process.execPath, SLUICE, ...patiently(args)];
  if (without.length > 0) {
    // Root gets back by execve what is in either set.
    const sets = without.map((name) => (name.startsWith('+') ? name : `-${name}`)).join(',');
    command.unshift('setpriv', '--bounding-set', sets, '--inh-caps', sets);
  }
  if (umask !== undefined) command.unshift('sh', '-c', `umask ${umask} && exec "$@"`, 'sh');
  return command as [string, ...string[]];
}

function optionsOf({ uid, env }: Privileges) {
  return {
    cwd: '/',
    env: { ...process.env, ...env },
    ...(uid === undefined ? {} : { uid, gid: uid }),
  };
}
