/** What CRIU alone does here: tests of Sluice and CRIU together build on it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { stateOf } from '../harness/procfs.js';
import { TempDir } from '../harness/temp.js';
import { waitFor } from '../harness/wait.js';
import { criu } from './criu.js';

leakCheck();

const COUNTER = new URL('../targets/build/counter', import.meta.url).pathname;
const PAGES = 4096;

it('a process is dumped after a pre-dump, restored, and runs on', async () => {
  await using dir = new TempDir();
  const file = dir.join('count');
  const count = () => (existsSync(file) ? Number(readFileSync(file, 'latin1')) : 0);
  const child = spawn(COUNTER, [file, `${PAGES}`], {
    cwd: dir.path,
    detached: true,
    stdio: 'ignore',
  });
  const exit = once(child, 'exit');
  const { pid } = child;
  if (pid === undefined) throw new Error('The target was not started');
  try {
    await waitFor('the target has counted', () => count() > PAGES);
    for (const name of ['before', 'last']) mkdirSync(dir.join(name));
    criu('pre-dump', dir.join('before'), ['--tree', `${pid}`, '--track-mem']);
    const parent = ['--track-mem', '--prev-images-dir', '../before'];
    criu('dump', dir.join('last'), ['--tree', `${pid}`, ...parent]);
    await exit;
    const bytes = (name: string) => statSync(dir.join(name, 'pages-1.img')).size;
    expect(bytes('before')).toBeGreaterThan(PAGES * 4096);
    expect(bytes('last')).toBeLessThan(bytes('before'));

    const counted = count();
    criu('restore', dir.join('last'), ['--restore-detached']);
    // It ends as soon as a page is not as it was left.
    await waitFor('every page was looked at', () => {
      if (stateOf(pid) === undefined) throw new Error('The restored process ended');
      return count() > counted + PAGES;
    });
  } finally {
    if (stateOf(pid) !== undefined) process.kill(pid, 'SIGKILL');
    await waitFor('the target has ended', () => stateOf(pid) === undefined);
  }
});
