/**
 * Runs test suites and ends with one line "N passed, N failed, N skipped" over all of them.
 *
 *   node scripts/test.mjs                      C++ tests and Vitest
 *   node scripts/test.mjs native-sanitized     the suites named: native, native-sanitized, vitest
 *   node scripts/test.mjs unit/pages -t torn   anything else goes to Vitest, which then runs alone
 *
 * Builds no package: `npm test` bootstraps first, a second run on another Node must not.
 *
 * The C++ test program prints "skipped NAME: REASON" for each test that it skips, and the sum line
 * last.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const TESTS = join(ROOT, 'test');
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

async function native(target) {
  const make = ['-s', '--no-print-directory', '-j2', '-C', 'packages/native', target];
  const { ok, output } = await run('make', make, { capture: true });
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

async function vitest(args) {
  const targets = await run('make', ['-s', '--no-print-directory', '-j2', '-C', 'test/targets']);
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
  native: () => native('test-plain'),
  'native-sanitized': () => native('test'),
  vitest: () => vitest([]),
};

const args = process.argv.slice(2);
const filtered = args.some((arg) => !Object.hasOwn(SUITES, arg));
const names = args.length > 0 ? args : ['native', 'vitest'];
const suites = filtered ? [() => vitest(args)] : names.map((name) => SUITES[name]);

const results = [];
for (const suite of suites) results.push(await suite());

const allowed = allowedSkips();
const passed = results.reduce((sum, result) => sum + result.passed, 0);
let failed = results.reduce((sum, result) => sum + result.failed, 0);
let skipped = 0;
process.stdout.write('\n');
for (const { name, reason } of results.flatMap((result) => result.skips)) {
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
