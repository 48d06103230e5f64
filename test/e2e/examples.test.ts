/** The main job and the examples, run as the README says. */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { startTimeOf } from '../harness/procfs.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { waitFor } from '../harness/wait.js';
import { outcomeOf, sluice } from '../unit/cli/run_sluice.js';

leakCheck();

const LIMIT_MS = 180_000;

function startExample(dir: TempDir, name: string, ...args: string[]) {
  const file = fileURLToPath(new URL(`../../examples/dist/${name}.js`, import.meta.url));
  // What an example leaves in the directory for temporary files is found in this one.
  const env = { ...process.env, TMPDIR: dir.path };
  return spawn(process.execPath, [file, ...args], { env });
}

const runExample = (dir: TempDir, name: string, ...args: string[]) =>
  outcomeOf(startExample(dir, name, ...args));

it(
  'runs the main job',
  async () => {
    await using dir = new TempDir();
    const out = dir.join('out');
    const { status, stdout, stderr } = await runExample(dir, 'main-job', out);
    const text = stdout.toString();
    expect({ status, stderr }, text).toEqual({ status: 0, stderr: '' });
    const words = ['Workload', 'Dump', 'Rounds', 'Freeze', 'Time', 'Throughput', 'Proof', 'Image'];
    for (const word of words) expect(text).toMatch(new RegExp(`^${word} `, 'm'));
    expect(readdirSync(out).sort()).toEqual(['.gitignore', 'main-job']);
    // What it says to try next does work.
    const read = /npx sluice read (\S+) (\d+) (0x\w+) (\d+)/.exec(text)?.slice(2) ?? [];
    const value = await sluice('read', `${out}/main-job`, ...read);
    expect(value.stdout.toString()).toMatch(/^key 1234 version \d+\n/);
    expect((await sluice('verify', `${out}/main-job`)).status).toBe(0);
    expect(startTimeOf(Number(read[0]))).toBeUndefined();
  },
  LIMIT_MS,
);

it(
  'ends the main job at a signal, with all it started',
  async () => {
    await using dir = new TempDir();
    const child = startExample(dir, 'main-job', dir.join('out'));
    const ended = outcomeOf(child);
    let said = '';
    child.stdout.on('data', (text: Buffer) => {
      said += text.toString();
    });
    await waitFor('the workload runs', () => said.includes('clients'));
    child.kill('SIGINT');
    const { status, stderr } = await ended;
    expect({ status, stderr }).toEqual({ status: 1, stderr: '\nThe operation was aborted\n' });
    const server = Number(/pid (\d+)/.exec(said)?.[1]);
    expect(startTimeOf(server)).toBeUndefined();
  },
  LIMIT_MS,
);

it('dumps a process of its own, or that of a pid', async () => {
  await using dir = new TempDir();
  await using target = await startTarget('churn', ['still']);
  const own = await runExample(dir, 'dump-pid');
  expect(own, own.stderr).toMatchObject({ status: 0, stderr: '' });
  expect(readdirSync(dir.path)).toEqual([]);
  const given = await runExample(dir, 'dump-pid', String(target.pid), dir.join('image'));
  expect(given, given.stderr).toMatchObject({ status: 0, stderr: '' });
  expect(given.stdout.toString()).toContain(`Dumping process ${target.pid} (churn)`);
  expect(readdirSync(dir.path)).toEqual(['image']);
  await target.check();
});

it(
  'makes a core of a server that does not notice',
  async () => {
    await using dir = new TempDir();
    const { status, stdout, stderr } = await runExample(dir, 'core-of-server');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const text = stdout.toString();
    expect(text).toMatch(/^Core +\d+ threads, \d+\.\d MiB of memory/m);
    expect(text).toMatch(/^Freeze +\d+\.\d ms$/m);
    expect(text).toMatch(/\d+ requests, .* while the core was made$/m);
    expect(startTimeOf(Number(/pid (\d+)/.exec(text)?.[1]))).toBeUndefined();
    expect(readdirSync(dir.path)).toEqual([]);
  },
  LIMIT_MS,
);

it('reads a variable out of an image', async () => {
  await using dir = new TempDir();
  const { status, stdout, stderr } = await runExample(dir, 'read-variable');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout.toString()).toMatch(/^The image says: {3}visit 3, by Barbara/m);
  expect(readdirSync(dir.path)).toEqual([]);
});

it('takes a program back ten times, to the same result', async () => {
  await using dir = new TempDir();
  const { status, stdout, stderr } = await runExample(dir, 'rollback');
  const text = stdout.toString();
  expect({ status, stderr }, text).toEqual({ status: 0, stderr: '' });
  const result = /^Undisturbed: .* (\S+)$/m.exec(text)?.[1] ?? '';
  expect(text.match(/^Rolled back .*/gm)).toEqual(
    Array.from({ length: 10 }, (_, time) =>
      expect.stringMatching(`^Rolled back ${time + 1}: .* about ${result}, from \\d+ % on`),
    ),
  );
  expect(readdirSync(dir.path)).toEqual([]);
});
