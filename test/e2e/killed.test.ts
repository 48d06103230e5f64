/**
 * A dumper that is killed at any instant leaves a target that runs on as if nothing had been; what may
 * stay behind in it, the next dump removes.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { readStatus, stateOf, threadsOf } from '../harness/procfs.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const CLI = fileURLToPath(new URL('../../packages/cli/bin/sluice.js', import.meta.url));
const TURNS = 24;

/** Starts the command and kills it after a while, or lets it end; returns how long it lived. */
async function dumpKilledAfter(pid: number, how: string[], ms?: number): Promise<number> {
  await using dir = new TempDir();
  const args = [CLI, 'dump', String(pid), '--out', dir.join('image'), ...how];
  const start = performance.now();
  const child = spawn(process.execPath, args, { stdio: 'ignore' });
  const exit = once(child, 'exit');
  if (ms !== undefined) {
    await sleep(ms);
    child.kill('SIGKILL');
  }
  await exit;
  return performance.now() - start;
}

async function expectFree({ pid }: TestTarget): Promise<void> {
  await waitFor('nobody holds the target', () =>
    threadsOf(pid).every((tid) => {
      const tracer = readStatus(pid, tid).get('TracerPid');
      return tracer === '0' && !['t', 'T'].includes(stateOf(pid, tid) ?? '');
    }),
  );
}

const WAYS = {
  vmsplice: ['--capture', 'vmsplice'],
  read: ['--capture', 'read'],
  twin: ['--consistency', 'twin', '--rounds', '0'],
};

describe('a dumper that is killed', () => {
  for (const [name, how] of Object.entries(WAYS)) {
    it(`leaves a still target whole (${name})`, { timeout: 120_000 }, async () => {
      await using target = await startTarget('churn', ['exit']);
      const before = viewOf(target.pid);
      const took = await dumpKilledAfter(target.pid, how);
      for (let turn = 0; turn < TURNS; turn++) {
        await dumpKilledAfter(target.pid, how, (took * turn) / TURNS);
        await expectFree(target);
        await target.check();
      }
      await using dump = await dumpOf(target.pid);
      await dump.image.verify();
      await assertUntouched(target.pid, before);
    });

    it(`leaves 64 threads in their system calls (${name})`, { timeout: 120_000 }, async () => {
      await using dir = new TempDir();
      await using target = await startTarget('threads64', [dir.path]);
      const took = await dumpKilledAfter(target.pid, how);
      await target.check();
      for (let turn = 0; turn < TURNS; turn++) {
        await dumpKilledAfter(target.pid, how, (took * turn) / TURNS);
        await expectFree(target);
        // Who is let go by the kernel gets the EINTR that the kernel gives.
        await target.check('check stopped');
      }
      const before = viewOf(target.pid).status;
      await using dump = await dumpOf(target.pid);
      await dump.image.verify();
      expect(viewOf(target.pid).status.Threads).toBe(before.Threads);
      await target.check();
    });
  }
});
