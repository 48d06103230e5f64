/**
 * Brings a fresh clone to a runnable state: dependencies, C++ addon, TypeScript. Uses only what Node
 * itself brings, because nothing is installed yet. Each step is skipped, or leaves nothing to do,
 * when its inputs are unchanged, so every npm script can start with it.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PNPM = 'pnpm@10.34.9';
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const STAMP = join(ROOT, 'node_modules/.sluice-stamp');

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/** Runs a command silently; on failure shows all it said and stops. Returns its output. */
function run(step, command, args) {
  const { error, status, signal, stdout, stderr } = spawnSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 256 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (error || status !== 0) {
    const why = error ? error.message : signal ? `killed by ${signal}` : `exit status ${status}`;
    fail(`${stdout ?? ''}${stderr ?? ''}\n${step} failed (${why}): ${command} ${args.join(' ')}`);
  }
  return stdout;
}

function has(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

function timed(step, work) {
  const start = performance.now();
  if (work()) {
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    process.stderr.write(`${step} (${seconds} s)\n`);
  }
}

function checkMachine() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(`Sluice needs Node 20.19 or newer; this is ${process.versions.node}.`);
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    fail(`Sluice needs Linux on x64; this is ${process.platform} on ${process.arch}.`);
  }
  const missing = ['g++', 'make'].filter((command) => !has(command));
  if (missing.length > 0) {
    fail(
      `Missing: ${missing.join(' and ')}. On Debian or Ubuntu: apt-get install g++ make; ` +
        'on Fedora: dnf install gcc-c++ make.',
    );
  }
}

/** A hash over everything that decides what an install puts into node_modules. */
function installInputs() {
  const packages = readdirSync(join(ROOT, 'packages')).map((name) => `packages/${name}`);
  const files = [
    ...['.', 'examples', 'test', ...packages.sort()].map((dir) => `${dir}/package.json`),
    'pnpm-lock.yaml',
    'pnpm-workspace.yaml',
  ];
  const hash = createHash('sha256').update(`${PNPM} ${process.versions.modules}`);
  for (const file of files) {
    const path = join(ROOT, file);
    if (existsSync(path)) hash.update(`\0${file}\0`).update(readFileSync(path));
  }
  return hash.digest('hex');
}

function install() {
  const inputs = installInputs();
  if (existsSync(STAMP) && readFileSync(STAMP, 'utf8') === inputs) return false;
  run('Installing dependencies', 'npx', ['--yes', PNPM, 'install', '--frozen-lockfile']);
  writeFileSync(STAMP, inputs);
  return true;
}

function buildNative() {
  const upToDate = spawnSync('make', ['-q', '-C', 'packages/native'], {
    cwd: ROOT,
    stdio: 'ignore',
  });
  if (upToDate.status === 0) return false;
  run('Building the native part', 'make', ['-C', 'packages/native', '-j2']);
  return true;
}

function compile() {
  // --verbose is the only way to learn whether an incremental build did anything.
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const said = run('Compiling TypeScript', process.execPath, [tsc, '-b', '--verbose']);
  return said.includes('Building project');
}

checkMachine();
timed('dependencies installed', install);
timed('native part built', buildNative);
timed('TypeScript compiled', compile);
