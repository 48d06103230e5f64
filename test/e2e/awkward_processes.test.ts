/** Targets that are stopped, cannot be stopped, or do something odd with threads, signals and children. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import {
  type AwkwardReady,
  expectLeftAlone,
  startAwkward,
  WAYS,
  withoutHelper,
} from '../harness/awkward.js';
import { ControlGroup, FREEZERS, Freezer, groupsOf } from '../harness/cgroup.js';
import { dumpOf, failedDumpOf, failureOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld, whileStopped } from '../harness/oracle.js';
import { coreProcess, restoreInto } from '../harness/patient.js';
import { childrenOf, stateOf, threadsOf } from '../harness/procfs.js';
import { missingPrograms } from '../harness/program.js';
import { startProgram, startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertClean, assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor, within } from '../harness/wait.js';

leakCheck();

const SIGRTMAX = 64;
/** As /proc/PID/syscall begins in it. */
const SYS_READ = '0 ';
const noGo = missingPrograms('gojq', ['gojq']);

describe('a target that is stopped by SIGSTOP', () => {
  it('is dumped and restored in every way, and stays stopped', async () => {
    await using target = await startAwkward();
    await using dir = new TempDir();
    const { pid } = target;
    await whileStopped(pid, async (memory) => {
      const before = viewOf(pid);
      expect(before.state).toBe('stopped');
      for (const way of Object.values(WAYS)) {
        await using dump = await dumpOf(pid, way);
        await assertUntouched(pid, before);
        await memory.compare(dump.image);
        await restoreInto(pid, dump.image, { force: true });
        await assertUntouched(pid, before);
      }
      await coreProcess(pid, { out: dir.join('core') });
      await assertUntouched(pid, before);
    });
    await target.check();
  });
});

describe('a target in uninterruptible sleep', () => {
  it.skipIf(groupsOf('freezer') === undefined)(
    'in a frozen control group is refused, and goes on when it is thawed',
    async () => {
      await using group = new ControlGroup('freezer');
      await using target = await startAwkward();
      await using dump = await dumpOf(target.pid);
      group.add(target.pid);
      {
        using freezer = new Freezer(group, FREEZERS[0]);
        await freezer.freeze();
        expect(stateOf(target.pid)).toBe('D');
        const before = viewOf(target.pid);
        const isTimeout = { code: 'ERR_SLUICE_FREEZE_TIMEOUT', thawed: true };
        for (const way of Object.values(WAYS)) {
          const error = await failedDumpOf(target.pid, { freezeTimeoutMs: 200, ...way });
          expect(error).toMatchObject(isTimeout);
          await assertUntouched(target.pid, before);
        }
        const restore = restoreInto(target.pid, dump.image, { force: true, freezeTimeoutMs: 200 });
        expect(await failureOf(restore)).toMatchObject(isTimeout);
        await assertUntouched(target.pid, before);
      }
      await expectLeftAlone(target);
    },
  );
});

describe('a target with a thread that waits for a file system', () => {
  it('that does not answer is refused, and gets what it waits for in the end', async (ctx) => {
    await using dir = new TempDir();
    try {
      await using target = await startTarget<AwkwardReady>('stuck', [dir.path]);
      const { pid, absent } = target.info;
      if (absent !== undefined) ctx.skip(`no ${absent} here`);
      const reads = (tid: number) =>
        readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'latin1').startsWith(SYS_READ);
      await waitFor('it reads', () => threadsOf(pid).every(reads));
      const before = viewOf(pid);
      // Its descriptors cannot be closed in a helper, nor the thread be stopped.
      const error = await failedDumpOf(pid, { ...WAYS.vmsplice, lanes: 1 });
      expect(error).toMatchObject({
        code: 'ERR_SLUICE_CAPTURE_UNAVAILABLE',
        syscall: 'close_range',
      });
      await target.check();
      const late = await failedDumpOf(pid, { freezeTimeoutMs: 300, ...WAYS.read });
      expect(late).toMatchObject({ code: 'ERR_SLUICE_FREEZE_TIMEOUT', thawed: true });
      await target.check();
      await target.command('answer');
      await target.check();
      // What had to be left of the helper goes with the next one.
      await using dump = await dumpOf(pid, WAYS.vmsplice);
      await dump.image.verify();
      await assertUntouched(pid, before);
      await target.check();
    } finally {
      // Unmounted already if the target came to its end.
      spawnSync('umount', ['-l', dir.path]);
    }
  });
});

describe('a target that handles every signal', () => {
  it('gets those that are sent, and no other', async () => {
    await using target = await startAwkward('signals');
    await expectLeftAlone(target);
    let sent = 0;
    for (const way of Object.values(WAYS)) {
      let over = false;
      const sending = (async () => {
        for (; !over; await sleep(1)) {
          process.kill(target.pid, SIGRTMAX);
          sent++;
        }
      })();
      await using _ = await dumpOf(target.pid, way).finally(() => {
        over = true;
      });
      await sending;
      expect(await target.command('turn')).toMatchObject({ signals: sent });
      await target.check();
    }
  });
});

describe('a target in whose memory another process runs', () => {
  it('is dumped with a warning, and not restored unless that is allowed', async () => {
    await using target = await startAwkward('sharer');
    const { pid } = target;
    const before = viewOf(pid);
    const [sharer] = childrenOf(pid);
    const warnings = [expect.stringContaining(`Process ${sharer} runs in the same memory`)];
    for (const way of Object.values(WAYS)) {
      await using dump = await dumpOf(pid, way);
      expect(dump.result).toMatchObject({ warnings });
      await assertUntouched(pid, before);
      await target.check();
      expect(await failureOf(restoreInto(pid, dump.image, { force: true }))).toMatchObject({
        code: 'ERR_SLUICE_RESTORE_MISMATCH',
        message: expect.stringContaining(`its memory is shared with process ${sharer} (awkward)`),
      });
      await assertUntouched(pid, before);
      await restoreInto(pid, dump.image, { force: true, shared: true });
      await assertUntouched(pid, before);
      await target.check();
    }
  });
});

describe('a target that reaps all its children with __WALL', () => {
  it('misses none, and may find the helpers among them', async () => {
    await using target = await startTarget('reaper');
    for (const way of Object.values(WAYS)) {
      await using dump = await dumpOf(target.pid, way);
      await dump.image.verify();
      await assertClean(target.pid);
      await target.check();
    }
    // Each of four dumps has at most two helpers and a twin.
    const { strangers } = await target.command('strangers');
    expect(strangers).toBeLessThanOrEqual(4 * 3);
  });
});

describe('a target with a thousand threads that come and go', () => {
  it('is dumped, and cannot be restored', async () => {
    await using target = await startTarget('crowd', ['1500']);
    await using dump = await dumpOf(target.pid, { lanes: 2, consistency: 'twin' });
    expect(dump.result).toMatchObject({ capture: 'vmsplice', consistency: 'twin', warnings: [] });
    await dump.image.verify();
    // A third of them stays, all others have changed by the next check.
    expect(dump.image.processes[0]?.threads.length).toBeGreaterThan(500);
    await target.check();
    const failure = await failureOf(restoreInto(target.pid, dump.image, { force: true }));
    expect(failure).toMatchObject({ code: 'ERR_SLUICE_RESTORE_MISMATCH', thawed: true });
    expect(failure.message).toMatch(/its threads are others: .* and \d+ more/);
    await assertClean(target.pid);
    await target.check();
  });
});

describe('a static Go program', () => {
  /** Adds up numbers that it is sent. */
  async function expectSum(target: TestTarget, sum: number): Promise<void> {
    target.send('1');
    expect(await target.nextLine()).toBe(String(sum));
  }

  /** One that has added up one number. Its first thread, the only one with a stack of the kernel's, is not on that. */
  async function startAdding(): Promise<TestTarget> {
    for (;;) {
      const target = await startProgram('gojq', ['-n', 'foreach inputs as $x (0; . + $x)']);
      await expectSum(target, 1);
      const reads = (tid: number) =>
        readFileSync(`/proc/${target.pid}/task/${tid}/syscall`, 'latin1').startsWith(SYS_READ);
      await waitFor('it reads', () => threadsOf(target.pid).some(reads));
      if (reads(target.pid)) return target;
      await target[Symbol.asyncDispose]();
    }
  }

  it('is read from outside, as its stacks are no place for a helper', async (ctx) => {
    if (noGo !== undefined) ctx.skip(noGo);
    await using target = await startAdding();
    const { vmsplice, rounds, twin, restore } = withoutHelper(/no thread was on a stack/);
    let sum = 1;
    for (const [way, outcome] of [
      [WAYS.read, { capture: 'read' }],
      [WAYS.rounds, rounds],
      [WAYS.twin, twin],
    ] as const) {
      await using dump = await dumpOf(target.pid, way);
      expect(dump.result).toMatchObject(outcome as object);
      await dump.image.verify();
      await expectSum(target, ++sum);
    }
    expect(await failedDumpOf(target.pid, WAYS.vmsplice)).toMatchObject({ code: vmsplice });
    await expectSum(target, ++sum);
    await using held = await dumpOf(target.pid, { after: 'stop' });
    await whileHeld(target.pid, (memory) => memory.compare(held.image)).finally(() =>
      held.result.held?.resume(),
    );
    await expectSum(target, ++sum);
    expect(await failureOf(restoreInto(target.pid, held.image, { force: true }))).toMatchObject({
      code: restore,
    });
    await using dir = new TempDir();
    await within('a core', coreProcess(target.pid, { out: dir.join('core') }));
    await expectSum(target, ++sum);
  });
});
