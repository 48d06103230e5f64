/** A process taken back to its image: its threads go on from there, whatever they do by now. */
import { readFileSync } from 'node:fs';
import type { Image, RestoreResult, SluiceErrorCode } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failureOf } from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { restoreInto } from '../harness/patient.js';
import { type Ready, startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor, within } from '../harness/wait.js';

leakCheck();

function restore(pid: number, image: Image, shared = false): Promise<RestoreResult> {
  return within('a restore', restoreInto(pid, image, { force: true, shared }));
}

describe('a computation of many threads', () => {
  const THREADS = '4';
  const ROUNDS = 3000;

  async function resultOf(target: TestTarget): Promise<{ hash: string; worked: number }> {
    for (;;) {
      const { done, hash, worked } = await target.command('result');
      if (done) return { hash: String(hash), worked: Number(worked) };
    }
  }

  it('comes to the same result after rollbacks in the middle', async () => {
    await using target = await startTarget('lockstep', [THREADS, String(ROUNDS)]);
    const { pid } = target;
    const reached = (round: number) =>
      waitFor(
        `round ${round}`,
        async () => Number((await target.command('progress')).rounds) >= round,
      );
    await reached(ROUNDS / 10);
    await using dump = await dumpOf(pid);
    for (let times = 0; times < 4; times++) {
      await reached(ROUNDS / 3);
      await restore(pid, dump.image);
    }
    const { hash, worked } = await resultOf(target);
    await using undisturbed = await startTarget('lockstep', [THREADS, String(ROUNDS)]);
    const expected = await resultOf(undisturbed);
    expect(hash).toBe(expected.hash);
    expect(expected.worked).toBe(Number(THREADS) * ROUNDS);
    // What was computed twice is not in the memory any more, but the kernel has counted it.
    expect(worked).toBeGreaterThan(expected.worked);
  });
});

interface Waits extends Ready {
  file: number;
  tids: number[];
}

/** Runs `work` with a process whose threads work, or wait in all kinds of calls. */
async function withWaits(
  phase: number,
  work: (target: TestTarget<Waits>, file: string) => Promise<void>,
): Promise<void> {
  await using dir = new TempDir();
  const file = dir.join('file');
  await using target = await startTarget<Waits>('waits', [file, String(phase)]);
  await inPhase(target, phase);
  await work(target, file);
}

async function phasesOf(target: TestTarget): Promise<number[]> {
  return (await target.command('state')).phases as number[];
}

/** Waits until all threads have come to a phase, and to their calls if they make one there. */
async function inPhase(target: TestTarget<Waits>, phase: number): Promise<void> {
  const { pid, info } = target;
  await waitFor(`all threads are in phase ${phase}`, async () => {
    const phases = await phasesOf(target);
    const calls = info.tids.map((tid) =>
      readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'latin1').startsWith('running'),
    );
    return phases.every((is) => is === phase) && !calls.includes(phase % 2 === 0);
  });
}

describe('threads that wait in system calls', () => {
  it('are taken out of them, into them, and from one to another', () =>
    withWaits(1, async (target) => {
      const { pid } = target;
      const goTo = async (phase: number) => {
        if (phase === 3) await target.command('wake');
        else await target.command(`go ${phase}`);
        await inPhase(target, phase);
      };
      await using working = await dumpOf(pid);
      await goTo(2);
      await using waiting = await dumpOf(pid);
      // Once more: those calls that the kernel goes on with as restart_syscall(2) have become that.
      await using waitingLong = await dumpOf(pid);

      const back = async ({ image }: { image: Image }, phase: number) => {
        await restore(pid, image);
        await inPhase(target, phase);
      };
      const comeTrue = async () => {
        await goTo(3);
        await target.check();
      };
      await back(waiting, 2); // the same calls
      await back(waitingLong, 2);
      await back(working, 1); // from calls to work
      await goTo(2);
      await comeTrue();
      for (const dump of [waiting, waitingLong]) {
        await back(dump, 2); // from work to calls
        await comeTrue();
        await goTo(4);
        await back(dump, 2); // from other calls
        await comeTrue();
      }
      await goTo(4);
      await using late = await dumpOf(pid);
      await back(working, 1);
      await back(late, 4); // from work, and out of a handler
    }));
});

describe('what the kernel keeps beside memory', () => {
  it('comes back: signal handlers, where files stand, and how they are open', () =>
    withWaits(2, async (target, path) => {
      const { pid, info } = target;
      const descriptor = () => readFileSync(`/proc/${pid}/fdinfo/${info.file}`, 'latin1');
      await using dump = await dumpOf(pid);
      const before = descriptor();
      expect(before).toMatch(/^pos:\t4\n/);
      for (let times = 0; times < 2; times++) {
        await target.command('write');
        await target.command('action');
        expect(descriptor()).toMatch(/^pos:\t9\n/);
        expect(await target.command('actions')).toEqual({ ok: false });
        await restore(pid, dump.image);
        expect(descriptor()).toBe(before);
        expect(await target.command('actions')).toEqual({ ok: true });
      }
      // Contents of files stay.
      expect(readFileSync(path, 'latin1')).toBe('thenlater');
    }));

  it('is told of where it stays as it is', () =>
    withWaits(2, async (target) => {
      const { pid } = target;
      // Without a helper, nobody asks the process how it handles signals.
      await using dump = await dumpOf(pid, { capture: 'read', rounds: 0 });
      await target.command('open');
      await target.command('leave');
      await target.command('action');
      const { warnings } = await restore(pid, dump.image);
      expect(warnings).toEqual([
        'Changed since the dump and left as it is now: umask, working directory',
        expect.stringMatching(/^The image does not tell how signals were handled/),
        expect.stringMatching(/^Opened since .* left open: descriptors \d+ \(\/dev\/zero\)$/),
        expect.stringMatching(/^What is in pipes, sockets .* descriptors 0 \((pipe|socket):/),
      ]);
      expect(await target.command('actions')).toEqual({ ok: false });
    }));

  const refusals: { command: string; message: RegExp }[] = [
    { command: 'close', message: /^descriptor \d+ is not open any more; it was \/.*\/file/ },
    { command: 'replace', message: /^descriptor \d+ is \/dev\/null now; it was \/.*\/file/ },
    { command: 'rseq', message: /^thread \d+ \(waits\) .* \(rseq\(2\)\)/ },
    { command: 'robust', message: /^thread \d+ \(waits\) .* \(set_robust_list\(2\)\)/ },
  ];
  for (const { command, message } of refusals) {
    it(`makes a restore refuse, which leaves all alone: after "${command}"`, () =>
      withWaits(2, async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command(command);
        const before = viewOf(pid);
        expect(await failureOf(restoreInto(pid, dump.image, { force: true }))).toMatchObject({
          code: 'ERR_SLUICE_RESTORE_MISMATCH',
          message: expect.stringMatching(message),
          thawed: true,
        });
        await assertUntouched(pid, before);
        await inPhase(target, 2);
      }));
  }

  const failures: { title: string; fault: FaultSpec; code: SluiceErrorCode }[] = [
    {
      title: 'to ask for a handler',
      fault: { call: 'remote:rt_sigaction', errno: 'EFAULT' },
      code: 'ERR_SLUICE_INJECTION',
    },
    {
      title: 'to set the last of four handlers, after as many questions',
      fault: { call: 'remote:rt_sigaction', errno: 'EFAULT', skip: 7, times: 1 },
      code: 'ERR_SLUICE_SYSTEM',
    },
    {
      title: 'to take a descriptor',
      fault: { call: 'pidfd_getfd', errno: 'EPERM' },
      code: 'ERR_SLUICE_PERMISSION',
    },
  ];
  for (const { title, fault, code } of failures) {
    it(`stays as it is now where a restore fails ${title}`, () =>
      withWaits(2, async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command('write');
        await target.command('action');
        const before = viewOf(pid);
        const error = await withFaults([fault], () =>
          failureOf(restoreInto(pid, dump.image, { force: true })),
        );
        expect(error).toMatchObject({ code, thawed: true });
        await assertUntouched(pid, before);
        await restore(pid, dump.image);
        expect(await target.command('actions')).toEqual({ ok: true });
      }));
  }

  it('may come back in part only, which is said, and then as a whole', () =>
    withWaits(2, async (target) => {
      const { pid } = target;
      await using dump = await dumpOf(pid);
      await target.command('write');
      const faults: FaultSpec[] = [{ call: 'lseek', errno: 'EINVAL', skip: 1 }];
      const error = await withFaults(faults, () =>
        failureOf(restoreInto(pid, dump.image, { force: true })),
      );
      expect(error).toMatchObject({
        code: 'ERR_SLUICE_RESTORE_INCOMPLETE',
        message: expect.stringMatching(/half restored: descriptor \d+ \(\/.*\/file\)/),
        thawed: true,
      });
      await restore(pid, dump.image);
      await inPhase(target, 2);
    }));

  it('is taken back only by force, for that is not safe', async () => {
    await using target = await startTarget('churn', ['exit']);
    await using dump = await dumpOf(target.pid);
    const before = viewOf(target.pid);
    expect(await failureOf(restoreInto(target.pid, dump.image))).toMatchObject({
      code: 'ERR_SLUICE_UNSAFE',
      pid: target.pid,
    });
    await assertUntouched(target.pid, before);
  });

  it('makes a restore refuse memory that another process shares, unless it is told to', async () => {
    await using dir = new TempDir();
    // It has a child that shares memory with it.
    await using target = await startTarget('mappings', [dir.path]);
    const { pid } = target;
    await using dump = await dumpOf(pid);
    const before = viewOf(pid);
    expect(await failureOf(restoreInto(pid, dump.image, { force: true }))).toMatchObject({
      code: 'ERR_SLUICE_RESTORE_MISMATCH',
      message: expect.stringMatching(
        / is shared with process \d+ \(mappings\), which would see it/,
      ),
    });
    await assertUntouched(pid, before);
    await restore(pid, dump.image, true);
    await target.check();
  });
});
