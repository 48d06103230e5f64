/**
 * Checks the form of the whole repository; with --write it mends what a formatter can. Every check
 * runs, whatever the earlier ones said, and each counts as one in the last line.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const WRITE = process.argv.includes('--write');

if (!existsSync(join(ROOT, 'node_modules/.bin'))) {
  process.stderr.write('Nothing is installed yet: run "npm run bootstrap" first.\n');
  process.exit(1);
}

function tool(name, args) {
  const command = join(ROOT, 'node_modules/.bin', name);
  const { error, status } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
  if (error) process.stderr.write(`${error.message}\n`);
  return status === 0;
}

/** C and C++ files below a directory, without what was built there. */
function nativeFiles(directory) {
  return readdirSync(join(ROOT, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = `${directory}/${entry.name}`;
    if (entry.isDirectory()) {
      return ['build', 'dist', 'node_modules'].includes(entry.name) ? [] : nativeFiles(path);
    }
    return /\.(c|cc|cpp|h)$/.test(entry.name) ? [path] : [];
  });
}

function clangFormat() {
  const files = [...nativeFiles('packages/native'), ...nativeFiles('test/targets')];
  if (files.length === 0) return true;
  return tool('clang-format', [...(WRITE ? ['-i'] : ['--dry-run', '-Werror']), ...files]);
}

/** Whoever installs chooses the registry, so the lock file must not name one. */
function lockFileNamesNoHost() {
  const bad = readFileSync(join(ROOT, 'pnpm-lock.yaml'), 'utf8')
    .split('\n')
    .flatMap((line, index) => (/tarball:|https?:/.test(line) ? [`${index + 1}: ${line}`] : []));
  if (bad.length > 0) process.stderr.write(`pnpm-lock.yaml names a host:\n${bad.join('\n')}\n`);
  return bad.length === 0;
}

const checks = [
  ['biome', () => tool('biome', ['check', '--error-on-warnings', ...(WRITE ? ['--write'] : [])])],
  ['clang-format', clangFormat],
  ...(WRITE
    ? []
    : [
        ['types of the tests', () => tool('tsc', ['-b', 'test'])],
        ['lock file', lockFileNamesNoHost],
      ]),
];

let failed = 0;
for (const [name, check] of checks) {
  const ok = check();
  if (!ok) failed += 1;
  process.stdout.write(`${name}: ${ok ? 'ok' : 'failed'}\n`);
}
process.stdout.write(`${checks.length - failed} passed, ${failed} failed, 0 skipped\n`);
process.exitCode = failed > 0 ? 1 : 0;
