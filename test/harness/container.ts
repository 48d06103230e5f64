/** Containers made by runc of a bundle with one program in it. */
import {
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { missingPrograms, runProgram } from './program.js';
import { type ChildTarget, type Ready, startThrough, targetPath } from './target.js';
import { TempDir } from './temp.js';
import { waitFor } from './wait.js';

export interface ContainerOptions {
  /** Root in it is another user outside. */
  userNamespace?: boolean;
  /** System calls that kill who makes them. */
  killing?: string[];
}

/** runc's own configuration for a new container, of which these parts are changed. */
interface Config {
  process: { terminal: boolean; args: string[] };
  linux: {
    namespaces: { type: string }[];
    resources: object;
    seccomp?: object;
    uidMappings?: object[];
    gidMappings?: object[];
  };
}

const SOME_USER = 100_000;

/** Starts `awkward` in a container; `dir` has to outlive it. */
export async function startContainer(
  dir: TempDir,
  conditions: string[],
  { userNamespace = false, killing = [] }: ContainerOptions = {},
): Promise<ChildTarget<Ready>> {
  const bundle = dir.open().join('bundle');
  mkdirSync(`${bundle}/rootfs`, { recursive: true });
  copyFileSync(targetPath('awkward-static'), `${bundle}/rootfs/target`);
  await runProgram('runc', ['spec', '--bundle', bundle]);
  const file = `${bundle}/config.json`;
  const config = JSON.parse(readFileSync(file, 'utf8')) as Config;
  config.process.terminal = false;
  config.process.args = ['/target', ...conditions];
  const { linux } = config;
  linux.resources = { ...linux.resources, pids: { limit: 32 }, memory: { limit: 256 << 20 } };
  if (killing.length > 0) {
    const names = { names: killing, action: 'SCMP_ACT_KILL_PROCESS' };
    linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [names] };
  }
  if (userNamespace) {
    linux.namespaces.push({ type: 'user' });
    const mapping = { containerID: 0, hostID: SOME_USER, size: 65_536 };
    linux.uidMappings = linux.gidMappings = [mapping];
    chownSync(`${bundle}/rootfs`, SOME_USER, SOME_USER);
  }
  writeFileSync(file, JSON.stringify(config));
  const id = `sluice-test-${process.pid}-${Date.now()}`;
  const run = ['--root', dir.join('state'), 'run', '--bundle', bundle];
  const pidFile = dir.join('pid');
  return startThrough(['runc', ...run, '--pid-file', pidFile, id], async () => {
    // Written, by a rename, when the program runs already.
    await waitFor('runc tells its pid', () => existsSync(pidFile));
    return Number(readFileSync(pidFile, 'utf8'));
  });
}

/** Why there can be no containers here, or undefined. */
export async function containerRefusal(): Promise<string | undefined> {
  const missing = missingPrograms('runc', ['runc']);
  if (missing !== undefined) return missing;
  try {
    await using dir = new TempDir();
    await using container = await startContainer(dir, []);
    await container.check();
    return undefined;
  } catch (error) {
    return `runc makes no container here: ${(error as Error).message}`;
  }
}
