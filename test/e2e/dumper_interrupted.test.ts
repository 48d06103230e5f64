/**
 * A dumper that is told to end, whatever it is at and whatever hangs; one that is not alone; and one whose clock
 * is set. Each leaves the process as it was, and either an image that is right or none.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { AbortError, openImage, openTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failureOf } from '../harness/dump.js';
import { Dumper } from '../harness/dumper.js';
import type { FaultSpec } from '../harness/faults.js';
import { startHanging } from '../harness/hanging.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld } from '../harness/oracle.js';
import { dumpProcess, restoreInto } from '../harness/patient.js';
import { buildPreload } from '../harness/preload.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { within } from '../harness/wait.js';
import { outcomeOf } from '../unit/cli/run_sluice.js';

leakCheck();

interface Phase {
  phase: string;
  fault: Pick<FaultSpec, 'call' | 'skip'>;
  signal: NodeJS.Signals;
  status: number;
}

/** In each of these phases something hangs, so that it does not end before the signal comes. */
const PHASES: Phase[] = [
  { phase: 'attaching', fault: { call: 'ptrace', skip: 12 }, signal: 'SIGHUP', status: 129 },
  { phase: 'opening shards', fault: { call: 'fallocate' }, signal: 'SIGINT', status: 130 },
  { phase: 'capturing', fault: { call: 'process_vm_readv' }, signal: 'SIGTERM', status: 143 },
  { phase: 'frozen', fault: { call: 'get_robust_list' }, signal: 'SIGTERM', status: 143 },
  { phase: 'sealing', fault: { call: 'fsync' }, signal: 'SIGHUP', status: 129 },
];

describe('a signal to sluice dump ends it', () => {
  for (const { phase, fault, signal, status } of PHASES) {
    it(`while it hangs ${phase} (${signal})`, async () => {
      await using target = await startTarget('churn', ['exit']);
      const before = viewOf(target.pid);
      await using dir = new TempDir();
      const image = dir.join('image');
      const options = ['--out', image, '--rounds', '1', '--freeze-limit', '2000'];
      const child = await startHanging(['dump', String(target.pid), ...options], fault);
      const ended = outcomeOf(child);
      child.kill(signal);
      // A second one changes nothing.
      child.kill(signal);
      const outcome = await within('the command to end', ended);
      expect(outcome).toMatchObject({ status });
      expect(outcome.stderr).toContain(`aborted by ${signal}`);
      expect(readdirSync(dir.path)).toEqual([]);
      await assertUntouched(target.pid, before);
      await target.check();
      await using dump = await dumpOf(target.pid);
      await dump.image.verify();
    });
  }
});

describe('a signal of the library', () => {
  it('ends nothing that is over: the target stays held', async () => {
    await using process = await startTarget('churn', ['exit']);
    const before = viewOf(process.pid);
    await using dir = new TempDir();
    const controller = new AbortController();
    const target = await openTarget(process.pid);
    const options = { dir: dir.join('image'), after: 'stop', signal: controller.signal } as const;
    const { held } = await target.dump(options);
    controller.abort();
    await target.close();
    await using image = await openImage(options.dir);
    await whileHeld(process.pid, (memory) => memory.compare(image));
    await held?.resume();
    await assertUntouched(process.pid, before);
    await process.check();
  });

  it('ends what has not begun, and a closed target takes no more', async () => {
    await using process = await startTarget('churn', ['still']);
    const before = viewOf(process.pid);
    await using dir = new TempDir();
    const target = await openTarget(process.pid);
    const signal = AbortSignal.abort();
    const aborted = target.dump({ dir: dir.join('image'), signal });
    await expect(aborted).rejects.toBeInstanceOf(AbortError);
    await target.close();
    const closed = await failureOf(target.dump({ dir: dir.join('image') }));
    expect(closed.code).toBe('ERR_SLUICE_OPTION');
    await using dump = await dumpOf(process.pid);
    const restore = restoreInto(process.pid, dump.image, { force: true, signal });
    await expect(restore).rejects.toBeInstanceOf(AbortError);
    expect(readdirSync(dir.path)).toEqual([]);
    await assertUntouched(process.pid, before);
  });
});

describe('dumpers that begin at the same time', () => {
  it('leave one of them a right image, and the others none', async () => {
    await using target = await startTarget('churn', ['exit']);
    const { pid } = target;
    const before = viewOf(pid);
    for (let turn = 0; turn < 3; turn++) {
      await using dir = new TempDir();
      const names = ['a', 'b', 'c'];
      const dumps = names.map((name) => dumpProcess(pid, { dir: dir.join(name) }));
      const outcomes = await within('all dumps', Promise.allSettled(dumps));
      const done = names.filter((_, index) => outcomes[index]?.status === 'fulfilled');
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') {
          expect(outcome.reason).toMatchObject({
            code: 'ERR_SLUICE_ALREADY_TRACED',
            thawed: true,
          });
        }
      }
      // Those that came late may have found it free again.
      expect(done).not.toEqual([]);
      expect(readdirSync(dir.path)).toEqual(done);
      for (const name of done) {
        await using image = await openImage(dir.join(name));
        await image.verify();
      }
      await assertUntouched(pid, before);
    }
    await target.check();
  });

  it('may be processes of their own', async () => {
    await using target = await startTarget('churn', ['exit']);
    const { pid } = target;
    const before = viewOf(pid);
    await using dir = new TempDir();
    const names = ['a', 'b'];
    const endings = await Promise.all(
      names.map(async (name) => {
        await using dumper = new Dumper({ work: 'dump', pid, options: { dir: dir.join(name) } });
        return await dumper.ended();
      }),
    );
    const codes = endings.map(({ outcome }) => outcome?.code);
    expect(codes).toContain(null);
    for (const [index, code] of codes.entries()) {
      if (code !== null) expect(code).toBe('ERR_SLUICE_ALREADY_TRACED');
      expect(existsSync(dir.join(names[index] ?? ''))).toBe(code === null);
    }
    await assertUntouched(pid, before);
    await target.check();
  });
});

it('a clock that is set while it dumps changes no time that it waits or tells', async (ctx) => {
  await using dir = new TempDir();
  const { library, refusal } = buildPreload('stepping_clock.c', dir);
  if (refusal !== undefined) ctx.skip(refusal);
  await using target = await startTarget('churn', ['exit']);
  const { pid } = target;
  const before = viewOf(pid);
  const stepping = ['env', `LD_PRELOAD=${library}`];
  const shown = spawnSync('env', [
    `LD_PRELOAD=${library}`,
    process.execPath,
    '-e',
    'const a=Date.now();for(let i=0;i<9;i++)if(Math.abs(Date.now()-a)>8e7)process.exit(7)',
  ]);
  expect(shown.status).toBe(7);
  for (const more of [{}, { after: 'stop' }]) {
    const options = { dir: dir.join(`image-${Object.keys(more)}`), timeLimitMs: 60_000, ...more };
    await using dumper = new Dumper({ work: 'dump', pid, options, release: 'resume' }, stepping);
    const { outcome, stderr } = await dumper.ended();
    expect({ outcome, stderr }).toMatchObject({ outcome: { code: null } });
    const { total_time, frozen_time } = outcome?.result ?? {};
    // Microseconds, of less than an hour.
    for (const time of [total_time, frozen_time]) {
      expect(time).toBeGreaterThan(0);
      expect(time).toBeLessThan(3600e6);
    }
    await using image = await openImage(options.dir);
    await image.verify();
  }
  await assertUntouched(pid, before);
  await target.check();
});
