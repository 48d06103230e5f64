/**
 * No freeze lasts longer than its limit, whatever hangs in the dumper: a lane, a drain, control, or all of its
 * JavaScript. The target goes on by itself then.
 */
import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type Dump, dumpOf, failedDumpOf, failureOf, type Options } from '../harness/dump.js';
import { Dumper, type Job, type Outcome } from '../harness/dumper.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess, restoreInto } from '../harness/patient.js';
import { orGone, readStatus, stateOf, threadsOf } from '../harness/procfs.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const LIMIT: Options = { freezeLimitMs: 300 };
const WHOLE: Options = { ...LIMIT, rounds: 0, consistency: 'copy' };
const READ: Options = { ...WHOLE, capture: 'read', lanes: 1 };
const STOP: Options = { ...LIMIT, rounds: 0, after: 'stop' };

/** Does not come back for as long as the test wants. */
function hang(call: string, skip = 0): FaultSpec[] {
  return [{ call, skip, times: 1, mode: 'hang' }];
}

const HANGING: { what: string; faults: FaultSpec[]; options: Options }[] = [
  { what: 'a lane that reads', faults: hang('process_vm_readv'), options: READ },
  { what: 'one lane of two', faults: hang('process_vm_readv', 2), options: { ...READ, lanes: 2 } },
  { what: 'a lane that has a helper', faults: hang('remote:vmsplice', 1), options: WHOLE },
  { what: 'a lane of a target to be held', faults: hang('remote:vmsplice'), options: STOP },
  { what: 'a drain', faults: hang('splice', 3), options: { ...WHOLE, io: 'buffered' } },
  { what: 'control, about a thread', faults: hang('get_robust_list'), options: READ },
  { what: 'control, about the process', faults: hang('prlimit64'), options: WHOLE },
  { what: 'control, with a tracker', faults: hang('get_robust_list'), options: LIMIT },
  { what: 'control while it freezes', faults: hang('ptrace', 2), options: READ },
  {
    what: 'control beside a twin',
    faults: hang('get_robust_list'),
    options: { ...LIMIT, rounds: 0, consistency: 'twin' },
  },
];

async function expectRuns(target: TestTarget): Promise<void> {
  await waitFor('nobody holds the target', () => isFree(target.pid));
  await target.check();
}

function isFree(pid: number): boolean {
  return threadsOf(pid).every((tid) => {
    const tracer = orGone(() => readStatus(pid, tid).get('TracerPid'));
    return tracer === '0' && stateOf(pid, tid) !== 't';
  });
}

/** A limit is short; a machine that is busy may miss a freeze that is over when it looks. */
async function untilSeen(attempt: (freezeLimitMs: number) => Promise<boolean>): Promise<void> {
  for (const limitMs of [300, 1000, 4000, 16_000]) {
    if (await attempt(limitMs)) return;
  }
  throw new Error('No freeze was seen');
}

describe('the limit of a freeze', () => {
  for (const { what, faults, options } of HANGING) {
    it(`ends it when something hangs: ${what}`, async () => {
      await using target = await startTarget('churn', ['exit']);
      const { pid } = target;
      const before = viewOf(pid);
      const error = await withFaults(faults, async () => {
        const failure = await failedDumpOf(pid, options);
        // What hangs still does.
        await assertUntouched(pid, before);
        await target.check();
        return failure;
      });
      expect(error).toMatchObject({ code: 'ERR_SLUICE_FREEZE_LIMIT', thawed: true, pid });
      await using dump = await dumpOf(pid);
      await dump.image.verify();
      await assertUntouched(pid, before);
      await target.check();
    });
  }

  it('counts for attaching, too', async () => {
    await using target = await startTarget('churn', ['exit']);
    const before = viewOf(target.pid);
    // In the middle of the calls that a thread of the target makes for it.
    const error = await withFaults(hang('ptrace', 12), async () => {
      const failure = await failedDumpOf(target.pid, LIMIT);
      await target.check();
      return failure;
    });
    expect(error).toMatchObject({ code: 'ERR_SLUICE_FREEZE_LIMIT', thawed: true });
    await using dump = await dumpOf(target.pid);
    await dump.image.verify();
    await assertUntouched(target.pid, before);
  });

  it('does not touch a dump that is in time', async () => {
    await using target = await startTarget('churn', ['exit']);
    await using dump = await dumpOf(target.pid, { freezeLimitMs: 60_000 });
    await dump.image.verify();
    await target.check();
  });
});

describe('a target goes on when the dumper hangs:', () => {
  async function dumpHanging(
    target: TestTarget,
    job: Omit<Job, 'pid' | 'options' | 'work'> & { options: object },
    act: (dumper: Dumper) => Promise<boolean>,
  ): Promise<void> {
    const before = viewOf(target.pid);
    await untilSeen(async (freezeLimitMs) => {
      await using dir = new TempDir();
      const image = dir.join('image');
      const options = { ...job.options, freezeLimitMs, dir: image };
      await using dumper = new Dumper({ ...job, work: 'dump', pid: target.pid, options });
      if (!(await act(dumper))) return false;
      const { outcome, status } = await dumper.ended();
      expect({ outcome, status }).toMatchObject({
        outcome: { code: 'ERR_SLUICE_FREEZE_LIMIT', thawed: true },
        status: 0,
      });
      // An image of a target that was not to go on may be whole.
      if (job.block !== 'held') expect(existsSync(image)).toBe(false);
      return true;
    });
    await assertUntouched(target.pid, before);
    await target.check();
  }

  it('its main thread, while a lane hangs as well', async () => {
    await using target = await startTarget('churn', ['exit']);
    const { faults, options } = { faults: hang('process_vm_readv'), options: READ };
    await dumpHanging(target, { faults, options, block: 'frozen' }, async (dumper) => {
      if (!(await dumper.untilHangs())) return false;
      await expectRuns(target);
      dumper.goOn();
      return true;
    });
  });

  for (const release of ['resume', 'leaveStopped', 'kill'] as const) {
    it(`its main thread, with the target held (${release})`, async () => {
      await using target = await startTarget('churn', ['exit']);
      const job = { options: STOP, block: 'held', release } as const;
      await dumpHanging(target, job, async (dumper) => {
        if (!(await dumper.untilHangs())) return false;
        await expectRuns(target);
        dumper.goOn();
        return true;
      });
    });
  }

  it('all its threads, while it is frozen', async () => {
    await using target = await startTarget('churn', ['exit']);
    const { pid } = target;
    const frozen = () => threadsOf(pid).every((tid) => stateOf(pid, tid) === 't');
    const { faults, options } = { faults: hang('process_vm_readv'), options: READ };
    await dumpHanging(target, { faults, options }, async (dumper) => {
      await waitFor('the target is frozen', () => frozen() || !dumper.running);
      dumper.child.kill('SIGSTOP');
      await waitFor('the dumper is stopped', () => stateOf(dumper.pid) === 'T' || !dumper.running);
      const seen = dumper.running && frozen();
      if (seen) await expectRuns(target);
      expect(seen && stateOf(dumper.pid)).toBe(seen && 'T');
      dumper.child.kill('SIGCONT');
      return seen;
    });
  });

  it('a drain for ever; the dumper ends in spite of it', async () => {
    await using target = await startTarget('churn', ['exit']);
    const { faults, options } = { faults: hang('splice'), options: { ...WHOLE, io: 'buffered' } };
    await dumpHanging(target, { faults, options }, async () => true);
  });
});

describe('a held target that went on', () => {
  it('is let alone by its handle', async () => {
    await using target = await startTarget('churn', ['exit']);
    await using dir = new TempDir();
    const before = viewOf(target.pid);
    await untilSeen(async (freezeLimitMs) => {
      const options = { ...STOP, freezeLimitMs, dir: dir.join('image') };
      // It may go on before there is a handle.
      const dump = await dumpProcess(target.pid, options).catch(() => undefined);
      if (!dump?.held) return false;
      await expectRuns(target);
      const error = await failureOf(dump.held.kill());
      expect(error).toMatchObject({ code: 'ERR_SLUICE_FREEZE_LIMIT', thawed: true });
      return true;
    });
    await assertUntouched(target.pid, before);
    await target.check();
  });
});

describe('the limit of a restore', () => {
  async function failing(faults: FaultSpec[], freezeLimitMs: number) {
    await using dir = new TempDir();
    await using target = await startTarget('restorable', [dir.path]);
    await using dump = await dumpOf(target.pid);
    const before = viewOf(target.pid);
    // What is written is what is there: so it can go on from the middle of a restore.
    const error = await withFaults(faults, async () => {
      const failure = await failureOf(
        restoreInto(target.pid, dump.image, { force: true, freezeLimitMs }),
      );
      await assertUntouched(target.pid, before);
      await target.check();
      return failure;
    });
    await restoreInto(target.pid, dump.image, { force: true });
    await assertUntouched(target.pid, before);
    await target.check();
    return error;
  }

  it('ends it before the first change', async () => {
    const error = await failing(hang('get_robust_list'), 300);
    expect(error).toMatchObject({ code: 'ERR_SLUICE_FREEZE_LIMIT', thawed: true });
  });

  it('ends it while pages are written', async () => {
    // Long enough to get there.
    const error = await failing(hang('pwrite64', 1), 4000);
    expect(error).toMatchObject({ code: 'ERR_SLUICE_RESTORE_INCOMPLETE', thawed: true });
    expect(error.message).toMatch(/limit|too long/);
  });

  it('ends it when the main thread hangs', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('writer', ['16', '1000']);
    await using dump: Dump = await dumpOf(target.pid);
    const image = dump.result.dir;
    await untilSeen(async (freezeLimitMs) => {
      const options = { image, freezeLimitMs };
      const job: Job = { work: 'restore', pid: target.pid, options, block: 'frozen' };
      await using dumper = new Dumper(job);
      if (!(await dumper.untilHangs())) return false;
      await waitFor('nobody holds the target', () => isFree(target.pid));
      expect(dumper.running).toBe(true);
      dumper.goOn();
      const { outcome } = await dumper.ended();
      const codes: Outcome['code'][] = ['ERR_SLUICE_FREEZE_LIMIT', 'ERR_SLUICE_RESTORE_INCOMPLETE'];
      expect(codes).toContain(outcome?.code);
      expect(outcome?.thawed).toBe(true);
      return true;
    });
    expect(readdirSync(dir.path)).toEqual([]);
    await target.kill();
  });
});
