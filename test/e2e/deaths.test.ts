/**
 * A dumper that is killed by SIGKILL exactly at one step of its work, for every step there is: the target
 * goes on as if nobody had been there, and cleaning removes what may be left.
 */
import { afterAll, describe, it } from 'vitest';
import { ALL_DEATHS, dieAtEach, type Work } from '../harness/death.js';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { scaledMs } from '../harness/time.js';

leakCheck();

const LIMIT_MS = scaledMs(ALL_DEATHS ? 1_200_000 : 180_000);

/** Steps that come in all work on a target that is not read from outside. */
const ATTACHING = ['stopped', 'call-left', 'cloned', 'put-back', 'helper-ready', 'zombie-reaped'];
const FREEZING = ['thread-interrupted', 'frozen', 'thread-released', 'thawed'];

const dump = (pid: number, options: object) => (dir: TempDir) =>
  ({ work: 'dump', pid, dir: dir.join('image'), options }) as const;

describe('a dumper that dies at any step', () => {
  let dead = 0;
  afterAll(() => {
    process.stdout.write(`${dead} dumpers died at a step\n`);
  });

  it('of a dump in rounds leaves a writing target whole', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['8', '50']);
    const steps = [...ATTACHING, ...FREEZING, 'range-watched', 'pages-collected', 'range-released'];
    dead += await dieAtEach(
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
    dead += await dieAtEach(
      target,
      dump(target.pid, { lanes: 1, rounds: 1 }),
      steps,
      'check stopped',
    );
  });

  it('of a twin leaves a target whole that maps and unmaps', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('churn', ['maps', '1000']);
    const options = { lanes: 2, rounds: 0, consistency: 'twin' };
    const steps = ['twin-cloned', 'twin-secured', 'pages-taken', 'twin-captured', 'twin-ended'];
    dead += await dieAtEach(target, dump(target.pid, options), steps, 'check');
  });

  it('of a dump from outside leaves threads in their system calls', {
    timeout: LIMIT_MS,
  }, async () => {
    await using dir = new TempDir();
    await using target = await startTarget('threads64', [dir.path]);
    const options = { capture: 'read', tracker: 'none' };
    dead += await dieAtEach(target, dump(target.pid, options), FREEZING, 'check stopped');
  });

  it('while it holds its target lets that go', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('churn', ['maps', '1000']);
    const work = (dir: TempDir): Work => ({
      work: 'hold',
      pid: target.pid,
      dir: dir.join('image'),
    });
    dead += await dieAtEach(target, work, [...FREEZING, 'pages-pinned', 'held'], 'check');
  });

  // What is taken back is as it is now, so that a mixture is no harm: what is tried is all the rest.
  it('of a restore lets its target go', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('churn', ['exit']);
    const { pid } = target;
    await using image = await dumpOf(pid);
    const work = (): Work => ({ work: 'restore', pid, dir: image.image.dir });
    const steps = [...ATTACHING, ...FREEZING, 'pages-dropped', 'pages-written', 'thread-set'];
    dead += await dieAtEach(target, work, steps, 'check');
  });
});
