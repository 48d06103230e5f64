/**
 * Fuzzes what reads bytes that a hostile target or image controls, and ends with "N passed, N failed,
 * N skipped".
 *
 *   node scripts/fuzz.mjs            the native readers, for some seconds each
 *   node scripts/fuzz.mjs --full     those for minutes each, then the tests of images with many cases
 *   node scripts/fuzz.mjs --keep     as the first, and keeps inputs that reach new code
 *
 * The native fuzzers are programs of libFuzzer, packages/native/fuzz/*.cc, which begin with the inputs
 * in packages/native/fuzz/corpus. An input that fails stays in packages/native/build/fuzz/failed: run
 * the fuzzer with its path as the only argument. `SLUICE_FUZZ_SEED` is where random choices begin.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const NATIVE = join(ROOT, 'packages/native');
const CORPUS = join(NATIVE, 'fuzz/corpus');
const FAILED = join(NATIVE, 'build/fuzz/failed/');
const COMPILER = process.env.FUZZ_CXX ?? 'clang++-14';
const FULL = process.argv.includes('--full');
const KEEP = process.argv.includes('--keep');

/** Whichever comes first. */
const RUNS = FULL ? 100_000_000 : 150_000;
const SECONDS = FULL ? 600 : 12;
/** Cases of each kind. */
const IMAGE_TESTS = {
  'unit/image/hostile_bytes.test.ts': 1_000_000,
  'e2e/hostile_images.test.ts': 10_000,
};

function run(command, args, env = {}) {
  return new Promise((resolve, reject) => {
    const options = { cwd: NATIVE, env: { ...process.env, ...env } };
    const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk) => {
        output += chunk;
      });
    }
    child.on('error', reject);
    child.on('close', (status) => resolve({ ok: status === 0, output }));
  });
}

/** New inputs go to a directory that is thrown away: the kept ones are the smallest that do the same. */
async function fuzz(name) {
  const scratch = mkdtempSync(join(tmpdir(), 'sluice-fuzz-'));
  const kept = join(CORPUS, name);
  mkdirSync(kept, { recursive: true });
  try {
    const seed = process.env.SLUICE_FUZZ_SEED ?? '1';
    const { ok, output } = await run(join(NATIVE, 'build/fuzz', name), [
      ...[`-runs=${RUNS}`, `-max_total_time=${SECONDS}`, `-seed=${seed}`, '-max_len=4096'],
      ...['-timeout=20', '-rss_limit_mb=1024', '-print_final_stats=1', '-verbosity=0'],
      ...[`-artifact_prefix=${FAILED}`, scratch, kept],
    ]);
    const cases = Number(/number_of_executed_units: *(\d+)/.exec(output)?.[1] ?? 0);
    const sound = ok && cases > 0;
    process.stdout.write(`${sound ? 'ok' : 'FAIL'} ${name}: ${cases} cases, seed ${seed}\n`);
    if (!sound) process.stdout.write(`${output.split('\n').slice(-60).join('\n')}\n`);
    if (sound && KEEP) await keep(name, kept, scratch);
    return sound;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Replaces the kept inputs by the fewest and smallest that reach as much. */
async function keep(name, kept, scratch) {
  const all = mkdtempSync(join(tmpdir(), 'sluice-corpus-'));
  const program = join(NATIVE, 'build/fuzz', name);
  try {
    const { ok, output } = await run(program, [
      '-merge=1',
      '-use_counters=0',
      '-max_len=1024',
      all,
      scratch,
      kept,
    ]);
    if (!ok) throw new Error(output);
    rmSync(kept, { recursive: true });
    await run('cp', ['-r', all, kept]);
    process.stdout.write(`   keeps ${readdirSync(kept).length} inputs\n`);
  } finally {
    rmSync(all, { recursive: true, force: true });
  }
}

function fuzzImages(file, runs) {
  const env = { SLUICE_FUZZ_RUNS: String(runs), SLUICE_TIME_SCALE: '200' };
  const { status } = spawnSync(process.execPath, ['scripts/test.mjs', file], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  return status === 0;
}

const results = { passed: 0, failed: 0, skipped: 0 };

if (spawnSync(COMPILER, ['--version']).status === 0) {
  const built = spawnSync('make', ['-s', '-j2', 'fuzz'], { cwd: NATIVE, stdio: 'inherit' });
  if (built.status !== 0) results.failed += 1;
  const names = built.status === 0 ? readdirSync(join(NATIVE, 'fuzz')) : [];
  mkdirSync(FAILED, { recursive: true });
  for (const file of names.filter((name) => name.endsWith('.cc')).sort()) {
    results[(await fuzz(basename(file, '.cc'))) ? 'passed' : 'failed'] += 1;
  }
} else {
  process.stdout.write(`skipped the native fuzzers: there is no ${COMPILER}\n`);
  results.skipped += 1;
}
for (const [file, runs] of FULL ? Object.entries(IMAGE_TESTS) : []) {
  results[fuzzImages(file, runs) ? 'passed' : 'failed'] += 1;
}

const { passed, failed, skipped } = results;
process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
process.exitCode = failed > 0 ? 1 : 0;
