/**
 * Runs test suites and ends with one line "N passed, N failed, N skipped" over all of them.
 *
 *   node scripts/test.mjs                      C++ tests and Vitest
 *   node scripts/test.mjs native-sanitized     the suites named: native, native-sanitized, vitest, vm, storm
 *   node scripts/test.mjs unit/pages -t torn   anything else goes to Vitest, which then runs alone
 *
 * The suite vm runs native-in-vm and vitest-in-vm in a virtual machine with an older kernel.
 *
 * Builds no package: `npm test` bootstraps first, a second run on another Node must not.
 *
 * The C++ test program prints "skipped NAME: REASON" for each test that it skips, and the sum line
 * last.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepareVm, runInVm, VmError } from '../test/vm/machine.mjs';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const TESTS = join(ROOT, 'test');
const NATIVE_TESTS = 'packages/native/build/plain/native-tests';
/** Parts of the names of the C++ tests of what depends most on the kernel. */
const NATIVE_IN_VM = ['tracker_', 'rounds_', 'capture_plan_', 'page_scan_', 'probe'];
/** Random schedules of rounds there, each of which takes about 15 s. */
const SEEDS_IN_VM = '6';
const VM_LIMIT_MS = 1_800_000;
const SUM_LINE = /^(\d+) passed, (\d+) failed, (\d+) skipped$/gm;
const SKIP_LINE = /^skipped (.+?): (.*)$/gm;

/** Runs a command, shows its output as it comes, and resolves to exit status and output. */
function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const { capture = false, ...rest } = options;
    const child = spawn(command, args, {
      cwd: ROOT,
      ...rest,
      stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    });
    let output = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk) => {
      output += chunk;
      process.stdout.write(chunk);
    });
    child.on('error', reject);
    child.on('close', (status) => resolve({ ok: status === 0, output }));
  });
}

/** A suite that ends badly without a failed test, by a crash for instance, still counts as failed. */
function suiteResult(ok, { passed, failed, skips }) {
  return { passed, failed: ok || failed > 0 ? failed : 1, skips };
}

function make(directory, target) {
  return ['make', ['-s', '--no-print-directory', '-j2', '-C', directory, target]];
}

async function native(command, args) {
  const { ok, output } = await run(command, args, { capture: true });
  const sum = [...output.matchAll(SUM_LINE)].at(-1);
  if (!sum) return { passed: 0, failed: 1, skips: [] };
  const [, passed, failed, skipped] = sum.map(Number);
  const skips = [...output.matchAll(SKIP_LINE)].map(([, name, reason]) => ({ name, reason }));
  if (skips.length !== skipped) {
    process.stdout.write(`The C++ tests count ${skipped} skipped and name ${skips.length}.\n`);
    return suiteResult(false, { passed, failed, skips });
  }
  return suiteResult(ok, { passed, failed, skips });
}

async function nativeInVm() {
  const parts = [];
  for (const name of NATIVE_IN_VM) parts.push(await native(NATIVE_TESTS, [name]));
  return together(parts);
}

async function vitest(args) {
  const targets = await run(...make('test/targets', 'all'));
  if (!targets.ok) return { passed: 0, failed: 1, skips: [] };
  const scratch = mkdtempSync(join(tmpdir(), 'sluice-test-'));
  try {
    const summary = join(scratch, 'summary.json');
    const require = createRequire(join(TESTS, 'package.json'));
    const entry = join(dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
    const { ok } = await run(process.execPath, [entry, 'run', ...args], {
      cwd: TESTS,
      env: { ...process.env, SLUICE_TEST_SUMMARY: summary },
    });
    return suiteResult(ok, readSummary(summary));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Everything is built before: the machine is slow, and forgets what is written in it. */
async function vm() {
  const builds = [make('packages/native', 'build/plain/native-tests'), make('test/targets', 'all')];
  for (const build of builds) {
    if (!(await run(...build)).ok) return { passed: 0, failed: 1, skips: [] };
  }
  try {
    prepareVm();
    const { status, result } = await runInVm({
      command: [process.execPath, 'scripts/test.mjs', 'native-in-vm', 'vitest-in-vm'],
      result: 'results.json',
      env: { SLUICE_TEST_RESULTS: '/run/vm/results.json', SLUICE_SEEDS: SEEDS_IN_VM },
      timeoutMs: VM_LIMIT_MS,
      onOutput: (chunk) => process.stdout.write(chunk),
    });
    return suiteResult(status === 0, JSON.parse(result ?? '{"passed":0,"failed":1,"skips":[]}'));
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    process.stdout.write(`${error.code}: ${error.message}\n`);
    return { passed: 0, failed: 1, skips: [] };
  }
}

function together(results) {
  const sum = (field) => results.reduce((total, result) => total + result[field], 0);
  return {
    passed: sum('passed'),
    failed: sum('failed'),
    skips: results.flatMap(({ skips }) => skips),
  };
}

function readSummary(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    // Vitest died before it could report.
    return { passed: 0, failed: 1, skips: [] };
  }
}

function allowedSkips() {
  const lines = readFileSync(join(TESTS, 'allowed-skips.txt'), 'utf8').split('\n');
  return new Set(lines.map((line) => line.trim()).filter((line) => line && !line.startsWith('#')));
}

const SUITES = {
  native: () => native(...make('packages/native', 'test-plain')),
  'native-sanitized': () => native(...make('packages/native', 'test')),
  vitest: () => vitest(['--project', 'unit', '--project', 'e2e']),
  vm,
  'native-in-vm': nativeInVm,
  storm: () => vitest(['--project', 'storm']),
  'vitest-in-vm': () => vitest(['--project', 'vm']),
};

const args = process.argv.slice(2);
const filtered = args.some((arg) => !Object.hasOwn(SUITES, arg));
const names = args.length > 0 ? args : ['native', 'vitest'];
const suites = filtered ? [() => vitest(args)] : names.map((name) => SUITES[name]);

const results = [];
for (const suite of suites) results.push(await suite());

const allowed = allowedSkips();
const total = together(results);
const { passed } = total;
let { failed } = total;
let skipped = 0;
if (process.env.SLUICE_TEST_RESULTS) {
  writeFileSync(process.env.SLUICE_TEST_RESULTS, JSON.stringify(total));
}
process.stdout.write('\n');
for (const { name, reason } of total.skips) {
  // A filter skips what it leaves out; that needs no permission and no line.
  if (filtered) {
    skipped += 1;
  } else if (allowed.has(name)) {
    skipped += 1;
    process.stdout.write(`skipped ${name}: ${reason}\n`);
  } else {
    failed += 1;
    process.stdout.write(
      `failed ${name}: skipped (${reason}), but not listed in test/allowed-skips.txt\n`,
    );
  }
}
process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
process.exitCode = failed > 0 ? 1 : 0;
