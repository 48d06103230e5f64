/** What the virtual machine needs from Debian: programs are installed, the kernel is only unpacked. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { VmError } from './error.mjs';

const PROGRAMS = [
  ...['qemu-system-x86', 'busybox-static', 'kmod', 'e2fsprogs'],
  // Of which crit needs the second.
  ...['criu', 'python3-protobuf'],
];
const POLICY = '/usr/sbin/policy-rc.d';

/** Runs a command and returns its output; throws with all it said. */
export function run(command, args, options = {}) {
  const { error, status, signal, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    timeout: 600_000,
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
    ...options,
  });
  if (error || status !== 0) {
    const why = error?.message ?? signal ?? `exit status ${status}`;
    const line = [command, ...args].join(' ');
    throw new VmError('ERR_VM_SETUP', `${line} failed (${why})\n${stdout ?? ''}${stderr ?? ''}`);
  }
  return stdout;
}

function isInstalled(name) {
  const { stdout } = spawnSync('dpkg', ['-s', name], { encoding: 'utf8' });
  return /^Status: .* installed$/m.test(stdout);
}

export function checkHost() {
  if (process.getuid?.() !== 0) {
    throw new VmError(
      'ERR_VM_SETUP',
      'The virtual machine needs root: it shows all files to its own root.',
    );
  }
  if (spawnSync('apt-get', ['--version']).error || spawnSync('dpkg', ['--version']).error) {
    throw new VmError(
      'ERR_VM_SETUP',
      'The virtual machine is made of packages of Debian 12: no apt-get or dpkg here.',
    );
  }
}

/** Old lists name versions that are gone; without lists there is no version at all. */
function withNewListsIfNeeded(work) {
  try {
    return work();
  } catch {
    run('apt-get', ['update', '-qq']);
    return work();
  }
}

/** Installs the programs that are missing, without starting a service. */
export function installPrograms() {
  const missing = PROGRAMS.filter((name) => !isInstalled(name));
  if (missing.length === 0) return;
  process.stderr.write(`installing ${missing.join(', ')}\n`);
  const saved = `${POLICY}.before-tests`;
  const options = ['-qq', '-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120'];
  if (existsSync(POLICY)) renameSync(POLICY, saved);
  try {
    writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    withNewListsIfNeeded(() => run('apt-get', ['install', ...options, ...missing]));
  } finally {
    rmSync(POLICY, { force: true });
    if (existsSync(saved)) renameSync(saved, POLICY);
  }
}

function kernelPackage() {
  const name = /^\s*Depends: (linux-image-6\.1\.\S+)$/m.exec(
    run('apt-cache', ['depends', 'linux-image-amd64']),
  )?.[1];
  if (name === undefined) {
    throw new VmError(
      'ERR_VM_SETUP',
      'linux-image-amd64 depends on no kernel 6.1: needs Debian 12.',
    );
  }
  return name;
}

/** Unpacks Debian's kernel into `dir`, which appears only when it is whole. */
export function unpackKernel(dir) {
  if (existsSync(dir)) return;
  const part = `${dir}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  // Not `_apt`, which may not write here.
  const download = () =>
    run('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', kernelPackage()], {
      cwd: part,
    });
  withNewListsIfNeeded(download);
  const [file = ''] = readdirSync(part);
  run('dpkg', ['-x', file, '.'], { cwd: part });
  rmSync(join(part, file));
  const [release = ''] = readdirSync(join(part, 'lib/modules'));
  run('depmod', ['-b', part, release]);
  renameSync(part, dir);
}
