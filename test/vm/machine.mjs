/**
 * Runs commands in a virtual machine with Debian 12's kernel and the files of this machine: what the
 * command writes goes to memory and is gone with it, but for the folder that `SLUICE_VM_SHARE` names.
 */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VmError } from './error.mjs';
import { buildInitramfs } from './initramfs.mjs';
import { checkHost, installPrograms, unpackKernel } from './packages.mjs';

export { VmError };

const CHECKOUT = fileURLToPath(new URL('../../', import.meta.url)).replace(/\/$/, '');
const BUILD = fileURLToPath(new URL('build/', import.meta.url));
const GUEST = fileURLToPath(new URL('guest.sh', import.meta.url));
const KERNEL = join(BUILD, 'kernel');
const INITRAMFS = join(BUILD, 'initramfs');
/** What the last machine that ended showed on its console. */
const CONSOLE = join(BUILD, 'console.log');
/** How much longer than elsewhere things take in it. */
const TIME_SCALE = '10';
const TAIL_LINES = 60;

/**
 * Gets the machine ready: installs programs, unpacks the kernel, builds the initramfs.
 *
 * @throws {VmError} `ERR_VM_SETUP`
 */
export function prepareVm() {
  checkHost();
  installPrograms();
  mkdirSync(BUILD, { recursive: true });
  unpackKernel(KERNEL);
  // Takes less than a second.
  buildInitramfs(KERNEL, INITRAMFS);
}

/**
 * Boots the machine, runs one command in it as root, and ends it.
 *
 * @param {object} options
 * @param {string[]} options.command Program and arguments; found by the caller's PATH.
 * @param {string} [options.cwd] Default: the root of the checkout.
 * @param {Record<string, string>} [options.env] Besides the caller's environment.
 * @param {number} [options.timeoutMs] For booting and the command together.
 * @param {number} [options.memoryMiB]
 * @param {number} [options.cpus]
 * @param {(text: Buffer) => void} [options.onOutput] Gets the output as it comes.
 * @param {string} [options.result] File that the command writes to the folder named by
 *   SLUICE_VM_SHARE, to be returned.
 * @returns {Promise<{ status: number, output: string, result: string | undefined }>} Exit status as
 *   of a shell: 128 and the number of the signal that ended the command.
 * @throws {VmError} `ERR_VM_TIMEOUT`, `ERR_VM_PANIC`, or `ERR_VM_LOST` if the machine ended without
 *   an exit status; with the end of what its console showed.
 */
export async function runInVm(options) {
  const share = mkdtempSync(join(tmpdir(), 'sluice-vm-'));
  try {
    writeShare(share, options);
    const { output, late } = await boot(share, options);
    copyFileSync(join(share, 'console.log'), CONSOLE);
    const read = (name) => {
      const path = join(share, name);
      return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
    };
    const status = read('status')?.trim();
    if (status !== undefined && /^\d+$/.test(status)) {
      const result = options.result === undefined ? undefined : read(options.result);
      return { status: Number(status), output, result };
    }
    throw noStatus(read('console.log') ?? '', late);
  } finally {
    rmSync(share, { recursive: true, force: true });
  }
}

function noStatus(console, late) {
  const lines = console.split(/\r?\n/);
  const tail = `The end of its console:\n${lines.slice(-TAIL_LINES).join('\n')}`;
  if (/Kernel panic/.test(console)) {
    return new VmError('ERR_VM_PANIC', `The kernel of the virtual machine panicked. ${tail}`);
  }
  if (late !== undefined) {
    return new VmError('ERR_VM_TIMEOUT', `The virtual machine was ended after ${late} ms. ${tail}`);
  }
  return new VmError('ERR_VM_LOST', `The virtual machine ended without an exit status. ${tail}`);
}

function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function writeShare(share, { command, cwd = CHECKOUT, env = {} }) {
  const variables = {
    ...process.env,
    SLUICE_TIME_SCALE: TIME_SCALE,
    ...env,
    SLUICE_VM_SHARE: '/run/vm',
    TMPDIR: '/tmp',
  };
  const names = Object.keys(variables).filter((name) => /^[A-Za-z_]\w*$/.test(name));
  const script = [
    ...names.map((name) => `export ${name}=${quote(variables[name])}`),
    `cd ${quote(cwd)} || exit 127`,
    `exec ${command.map(quote).join(' ')}`,
  ];
  writeFileSync(join(share, 'command'), `${script.join('\n')}\n`);
  writeFileSync(join(share, 'checkout'), CHECKOUT);
  writeFileSync(join(share, 'modules'), join(KERNEL, 'lib/modules'));
  copyFileSync(GUEST, join(share, 'guest.sh'));
}

function qemuArgs(share, { memoryMiB = 3072, cpus = 2 }) {
  const [release = ''] = readdirSync(join(KERNEL, 'lib/modules'));
  const fs = 'local,security_model=none,multidevs=remap';
  return [
    ...['-machine', 'pc', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', `${cpus}`],
    ...['-m', `${memoryMiB}`, '-nodefaults', '-display', 'none', '-no-reboot', '-no-user-config'],
    ...['-kernel', join(KERNEL, 'boot', `vmlinuz-${release}`), '-initrd', INITRAMFS],
    ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off'],
    // What goes on when mount points of other devices get the numbers of this one's: /proc is /sys.
    ...['-virtfs', `${fs},path=/,mount_tag=host,readonly=on`],
    ...['-virtfs', `${fs},path=${share},mount_tag=share`],
    ...['-serial', `file:${join(share, 'console.log')}`],
    ...['-chardev', 'stdio,id=output,signal=off', '-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=output,name=output'],
  ];
}

/** Resolves when the machine has ended, by itself or by the time limit. */
function boot(share, options) {
  const { timeoutMs = 600_000, onOutput = () => undefined } = options;
  return new Promise((resolve, reject) => {
    const args = ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...qemuArgs(share, options)];
    // Away from the terminal's process group; the death of this process ends it.
    // The end of its standard input would close its output, too.
    const vm = spawn('setpriv', args, { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
    const chunks = [];
    let late;
    const timer = setTimeout(() => {
      late = timeoutMs;
      vm.kill('SIGKILL');
    }, timeoutMs);
    const interrupted = (signal) => {
      vm.kill('SIGKILL');
      rmSync(share, { recursive: true, force: true });
      process.exit(128 + constants.signals[signal]);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, interrupted);
    const end = () => {
      clearTimeout(timer);
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.off(signal, interrupted);
    };
    vm.stdout.on('data', (chunk) => {
      chunks.push(chunk);
      onOutput(chunk);
    });
    vm.on('error', (error) => {
      end();
      reject(error);
    });
    vm.on('close', () => {
      end();
      resolve({ output: Buffer.concat(chunks).toString(), late });
    });
  });
}
