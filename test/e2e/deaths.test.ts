/**
 * A dumper that is killed by SIGKILL exactly at one step of its work, for every step there is: the target
 * goes on as if nobody had been there, and cleaning removes what may be left.
 */
import { cleanTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { type Death, diesAt, expectFree, stepsOf, type Work } from '../harness/death.js';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { scaledMs } from '../harness/time.js';
import { assertClean, assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

/** At which times of a step to die: by default at one of the first and the last, by turns. */
const ALL = process.env.SLUICE_DEATHS === 'all';
const LIMIT_MS = scaledMs(ALL ? 1_200_000 : 180_000);

/** Steps that come in all work on a target that is not read from outside. */
const ATTACHING = ['stopped', 'call-left', 'cloned', 'put-back', 'helper-ready', 'zombie-reaped'];
const FREEZING = ['thread-interrupted', 'frozen', 'thread-released', 'thawed'];

function deathsOf(counts: Map<string, number>): Death[] {
  return [...counts].flatMap(([step, count], index) => {
    const times = ALL ? [1, 2, Math.ceil(count / 2), count] : [index % 2 === 0 ? 1 : count];
    return [...new Set(times)].filter((n) => n <= count).map((n) => ({ step, times: n }));
  });
}

/** Dies at every step of some work on a target, and looks at it after each. */
async function dieAtEach(
  target: TestTarget,
  work: (dir: TempDir) => Work,
  steps: string[],
  check: string,
): Promise<void> {
  const { pid } = target;
  const before = viewOf(pid);
  // One that wakes its threads to look at them has new children then.
  const untouched = () =>
    check === 'check' ? assertUntouched(pid, before, { busy: true }) : assertClean(pid);
  const inDir = async <Value>(run: (work: Work) => Promise<Value>) => {
    await using dir = new TempDir();
    return await run(work(dir));
  };
  const counts = await inDir(stepsOf);
  expect([...counts.keys()]).toEqual(expect.arrayContaining(steps));
  for (const death of deathsOf(counts)) {
    const died = await inDir((each) => diesAt(each, death));
    // How often a step comes may vary, but it comes.
    expect({ ...death, died: died || death.times > 1 }).toEqual({ ...death, died: true });
    await expectFree(pid);
    await target.check(check);
    await cleanTarget(pid);
    await untouched();
  }
  expect(await cleanTarget(pid)).toEqual({ pid, mappings: 0, zombies: 0 });
  await target.check(check);
}

const dump = (pid: number, options: object) => (dir: TempDir) =>
  ({ work: 'dump', pid, dir: dir.join('image'), options }) as const;

describe('a dumper that dies at any step', () => {
  it('of a dump in rounds leaves a writing target whole', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['8', '50']);
    const steps = [...ATTACHING, ...FREEZING, 'range-watched', 'pages-collected', 'range-released'];
    await dieAtEach(
      target,
      dump(target.pid, { lanes: 2, rounds: 2, consistency: 'copy' }),
      steps,
      'check',
    );
  });

  it('of a dump in rounds leaves threads in their system calls', {
    timeout: LIMIT_MS,
  }, async () => {
    await using dir = new TempDir();
    await using target = await startTarget('threads64', [dir.path]);
    const steps = [...ATTACHING, ...FREEZING, 'userfaultfd-taken'];
    // Who is let go by the kernel gets the EINTR that the kernel gives.
    await dieAtEach(target, dump(target.pid, { lanes: 1, rounds: 1 }), steps, 'check stopped');
  });

  it('of a twin leaves a writing target whole', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['8', '50']);
    const options = { lanes: 2, rounds: 0, consistency: 'twin' };
    const steps = ['twin-cloned', 'twin-secured', 'pages-taken', 'twin-captured', 'twin-ended'];
    await dieAtEach(target, dump(target.pid, options), steps, 'check');
  });

  it('of a dump from outside leaves threads in their system calls', {
    timeout: LIMIT_MS,
  }, async () => {
    await using dir = new TempDir();
    await using target = await startTarget('threads64', [dir.path]);
    const options = { capture: 'read', tracker: 'none' };
    await dieAtEach(target, dump(target.pid, options), FREEZING, 'check stopped');
  });

  it('while it holds its target lets that go', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['8', '50']);
    const work = (dir: TempDir): Work => ({
      work: 'hold',
      pid: target.pid,
      dir: dir.join('image'),
    });
    await dieAtEach(target, work, [...FREEZING, 'pages-pinned', 'held'], 'check');
  });

  // What is taken back is as it is now, so that a mixture is no harm: what is tried is all the rest.
  it('of a restore lets its target go', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('churn', ['exit']);
    const { pid } = target;
    await using image = await dumpOf(pid);
    const work = (): Work => ({ work: 'restore', pid, dir: image.image.dir });
    const steps = [...ATTACHING, ...FREEZING, 'pages-dropped', 'pages-written', 'thread-set'];
    await dieAtEach(target, work, steps, 'check');
  });
});
