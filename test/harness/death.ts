/** Dumpers in processes of their own that die by SIGKILL: at a chosen step, or at any instant. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cleanTarget } from '@sluice/core';
import { expect } from 'vitest';
import { orGone, readStatus, stateOf, threadsOf } from './procfs.js';
import type { TestTarget } from './target.js';
import { TempDir } from './temp.js';
import { assertClean, assertUntouched, viewOf } from './untouched.js';
import { waitFor, within } from './wait.js';

/** Whether to die at the first, second, middle and last time of each step, not at one of them by turns. */
export const ALL_DEATHS = process.env.SLUICE_DEATHS === 'all';

const PROGRAM = fileURLToPath(new URL('./work.mjs', import.meta.url));

export interface Work {
  work: 'dump' | 'hold' | 'core' | 'restore' | 'clean';
  pid: number;
  /** Image, or core, that is written or read. */
  dir?: string;
  options?: object;
}

export interface Death {
  /** As docs/safety.md names it. */
  step: string;
  /** At which time that it comes, from 1. */
  times: number;
}

/** How often each step comes in a piece of work that is brought to its end; those that never come are left out. */
export async function stepsOf(work: Work): Promise<Map<string, number>> {
  const child = start(work, 'inherit');
  const [said, status] = await within('a dumper', Promise.all([saidBy(child), endOf(child)]));
  expect(status).toBe('0');
  const [, result = ''] = said.split('\n');
  const counts = Object.entries(JSON.parse(result) as Record<string, number>);
  return new Map(counts.filter(([, count]) => count > 0));
}

/** Lets a dumper die there. False: it did not come to that step so often, and has done its work. */
export async function diesAt(work: Work, death: Death): Promise<boolean> {
  const child = start({ ...work, ...death }, 'ignore');
  const [, status] = await within('a dumper', Promise.all([saidBy(child), endOf(child)]));
  expect(status).toMatch(/^(SIGKILL|0)$/);
  return status === 'SIGKILL';
}

/** Kills a dumper so many ms after it has begun, unless it ends before; returns for how long it worked, in ms. */
export async function diesAfter(work: Work, ms: number): Promise<number> {
  const child = start(work, 'ignore');
  const ended = endOf(child);
  if (child.stdout !== null) await within('a dumper to begin', once(child.stdout, 'data'));
  const begun = performance.now();
  const waiting = new AbortController();
  const timer = sleep(ms, undefined, { signal: waiting.signal }).catch(() => {});
  await Promise.race([ended, timer]);
  waiting.abort();
  child.kill('SIGKILL');
  child.stdout?.resume();
  await within('a dumper', ended);
  return performance.now() - begun;
}

/** Waits until nobody holds a process that a dumper has died on: no tracer, and no claim to it. */
export async function expectFree(pid: number): Promise<void> {
  await waitFor('nobody holds the target', () =>
    threadsOf(pid).every((tid) => {
      const state = stateOf(pid, tid) ?? '';
      // It may make threads and end them.
      const tracer = orGone(() => readStatus(pid, tid))?.get('TracerPid') ?? '0';
      return tracer === '0' && !['t', 'T'].includes(state);
    }),
  );
  await expectUnclaimed(pid);
}

/** Waits until the last task of a dumper that has died has ended: until then another one is refused. */
async function expectUnclaimed(pid: number): Promise<void> {
  const look = ['-n', `/proc/${pid}/pagemap`, 'true'];
  await waitFor('nobody claims the target', () => spawnSync('flock', look).status !== 1);
}

function start(work: Work & Partial<Death>, errors: 'inherit' | 'ignore'): ChildProcess {
  return spawn(process.execPath, [PROGRAM, JSON.stringify(work)], {
    stdio: ['ignore', 'pipe', errors],
  });
}

async function saidBy({ stdout }: ChildProcess): Promise<string> {
  return stdout === null ? '' : text(stdout);
}

/** Its status, or the name of the signal that ended it. */
async function endOf(child: ChildProcess): Promise<string> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.signalCode ?? String(child.exitCode);
}

function deathsOf(counts: Map<string, number>): Death[] {
  return [...counts].flatMap(([step, count], index) => {
    const times = ALL_DEATHS ? [1, 2, Math.ceil(count / 2), count] : [index % 2 === 0 ? 1 : count];
    return [...new Set(times)].filter((n) => n <= count).map((n) => ({ step, times: n }));
  });
}

/**
 * Dies at every step of some work on a target, or at `only` some, and looks at it after each.
 *
 * Returns how many dumpers died.
 *
 * @param steps That must be among those that come.
 * @param check What the target is asked; one that wakes its threads then has other children afterwards.
 */
export async function dieAtEach(
  target: TestTarget,
  work: (dir: TempDir) => Work,
  steps: string[],
  check: string,
  only?: string[],
): Promise<number> {
  const { pid } = target;
  const before = viewOf(pid);
  const untouched = () =>
    check === 'check' ? assertUntouched(pid, before, { busy: true }) : assertClean(pid);
  const inDir = async <Value>(run: (work: Work) => Promise<Value>) => {
    await using dir = new TempDir();
    return await run(work(dir));
  };
  const counts = await inDir(stepsOf);
  expect([...counts.keys()]).toEqual(expect.arrayContaining(steps));
  let dead = 0;
  for (const death of deathsOf(counts)) {
    if (only?.includes(death.step) === false) continue;
    const died = await inDir((each) => diesAt(each, death));
    // How often a step comes may vary, but it comes.
    expect({ ...death, died: died || death.times > 1 }).toEqual({ ...death, died: true });
    if (died) dead++;
    await expectFree(pid);
    await target.check(check);
    await cleanTarget(pid);
    await untouched();
  }
  expect(await cleanTarget(pid)).toEqual({ pid, mappings: 0, zombies: 0 });
  await target.check(check);
  return dead;
}
