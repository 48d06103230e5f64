/**
 * Targets that do not stand still: they end, execute another program, fork, start threads and change
 * their mappings while they are dumped. A dump gives a right image or the right error, and always an
 * end.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspectTarget, SluiceError, type SluiceErrorCode } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { Dump, dumpOf, failedDumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { patternBytes } from '../harness/pattern.js';
import { orGone, threadsOf } from '../harness/procfs.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const CAPTURES = ['vmsplice', 'read'] as const;
const LIMIT_MS = 120_000;
const TURNS = 24;
const LOOKS = 3000;
const GONE = [
  'ERR_SLUICE_TARGET_EXITED',
  'ERR_SLUICE_NO_SUCH_PROCESS',
  'ERR_SLUICE_ZOMBIE',
] as const;

interface ChurnInfo {
  pid: number;
  memory: string;
  bytes: number;
  [field: string]: unknown;
}

/** Both ends of its memory and something between, as the target filled it. */
async function expectRightImage(dump: Dump, { pid, memory, bytes }: ChurnInfo): Promise<void> {
  await dump.image.verify();
  const start = BigInt(memory);
  for (let offset = 0; offset < bytes; offset += Math.floor(bytes / 8 / 4096) * 4096) {
    const address = start + BigInt(offset);
    const found = Buffer.from(await dump.image.read(pid, address, 4096));
    expect(found.equals(patternBytes(address, 1n))).toBe(true);
  }
}

/** The dump, or the code of its error; anything else fails. */
async function outcomeOf(dump: Promise<Dump>): Promise<Dump | SluiceErrorCode> {
  try {
    return await dump;
  } catch (error) {
    if (SluiceError.isSluiceError(error)) return error.code;
    throw error;
  }
}

/** All that came out is among what may. */
function expectOnly(seen: Set<string>, allowed: readonly SluiceErrorCode[]): void {
  expect([...seen].filter((code) => !allowed.some((name) => name === code))).toEqual([]);
}

function dumpIn(outcome: Dump | SluiceErrorCode): Dump | undefined {
  return outcome instanceof Dump ? outcome : undefined;
}

/** Moments from before a dump to after it: that is how long one takes. */
async function durationOf(target: TestTarget, capture: (typeof CAPTURES)[number]): Promise<number> {
  const start = performance.now();
  await using _ = await dumpOf(target.pid, { capture });
  return performance.now() - start;
}

describe('a target that ends while it is dumped', () => {
  for (const capture of CAPTURES) {
    it(`is dumped or is gone (${capture})`, { timeout: LIMIT_MS }, async () => {
      let took = 0;
      const seen = new Set<string>();
      for (let turn = 0; turn < TURNS; turn++) {
        const microseconds = Math.round((took * 1000 * turn) / (TURNS - 4));
        await using target = await startTarget<ChurnInfo>('churn', ['exit', String(microseconds)]);
        if (turn === 0) took = await durationOf(target, capture);
        target.send('go');
        const outcome = await outcomeOf(dumpOf(target.pid, { capture, lanes: 1 + (turn % 2) }));
        await using dump = dumpIn(outcome);
        await target.ended();
        await target.stop();
        expect(target.endings).toEqual([{ code: 0, signal: null }]);
        if (dump !== undefined) {
          await expectRightImage(dump, target.info);
          seen.add('image');
        } else {
          seen.add(String(outcome));
        }
      }
      seen.delete('image');
      // Else nothing of what this is about was tried.
      expect(seen.size).toBeGreaterThan(0);
      expectOnly(seen, GONE);
    });

    it(`is dumped or is gone when killed (${capture})`, { timeout: LIMIT_MS }, async () => {
      let took = 0;
      const seen = new Set<string>();
      for (let turn = 0; turn < TURNS; turn++) {
        await using target = await startTarget<ChurnInfo>('churn', ['still']);
        if (turn === 0) took = await durationOf(target, capture);
        const running = outcomeOf(dumpOf(target.pid, { capture }));
        await sleep((took * turn) / TURNS);
        target.signal('SIGKILL');
        const outcome = await running;
        await using dump = dumpIn(outcome);
        await target.ended();
        if (dump !== undefined) {
          await expectRightImage(dump, target.info);
        } else {
          seen.add(String(outcome));
        }
      }
      expectOnly(seen, GONE);
    });
  }
});

describe('a target that executes another program while it is dumped', () => {
  for (const mode of ['exec', 'exec-thread']) {
    for (const capture of CAPTURES) {
      it(`gives an image of one of the two, or an error (${mode}, ${capture})`, {
        timeout: LIMIT_MS,
      }, async () => {
        let took = 0;
        const seen = new Set<string>();
        for (let turn = 0; turn < TURNS; turn++) {
          const microseconds = Math.round((took * 1000 * turn) / (TURNS - 4));
          await using target = await startTarget<ChurnInfo>('churn', [mode, String(microseconds)]);
          if (turn === 0) took = await durationOf(target, capture);
          target.send('go');
          const outcome = await outcomeOf(dumpOf(target.pid, { capture }));
          await using dump = dumpIn(outcome);
          // The new program says that it is ready, and is.
          const next = JSON.parse(await target.nextLine()) as ChurnInfo;
          expect(next).toMatchObject({ ready: true, pid: target.pid, turn: 1 });
          await target.check();
          if (dump !== undefined) {
            const isOld = holds(dump, target.info);
            expect(isOld || holds(dump, next)).toBe(true);
            await expectRightImage(dump, isOld ? target.info : next);
          } else {
            seen.add(String(outcome));
          }
        }
        // While a thread other than the first executes, the process cannot be looked up for moments.
        expectOnly(seen, ['ERR_SLUICE_TARGET_EXECED', 'ERR_SLUICE_NO_SUCH_PROCESS']);
      });
    }
  }

  // /proc shows a zombie and then nothing at its pid while the kernel changes its first thread.
  it('is found at every moment', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget<ChurnInfo>('churn', ['exec-loop', '0']);
    for (let look = 0; look < LOOKS; look++) {
      expect(inspectTarget(target.pid).checks[0]).toMatchObject({ name: 'dumpable', detail: '' });
    }
    await target.kill();
  });

  it('over and over', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget<ChurnInfo>('churn', ['exec-loop', '2000']);
    const seen = new Set<string>();
    for (let turn = 0; turn < TURNS; turn++) {
      const outcome = await outcomeOf(dumpOf(target.pid, { capture: CAPTURES[turn % 2] }));
      await using dump = dumpIn(outcome);
      if (dump !== undefined) {
        await dump.image.verify();
      } else {
        seen.add(String(outcome));
      }
      // It goes on executing itself.
      const before = turnOf(target.pid);
      await waitFor('it executed itself again', () => {
        const now = turnOf(target.pid);
        return now !== undefined && now !== before;
      });
    }
    await target.kill();
    expectOnly(seen, ['ERR_SLUICE_TARGET_EXECED']);
  });
});

describe('a target that keeps changing', () => {
  for (const mode of ['fork', 'vfork', 'threads', 'maps']) {
    for (const capture of CAPTURES) {
      it(`${mode} (${capture})`, { timeout: LIMIT_MS }, async () => {
        await using target = await startTarget<ChurnInfo>('churn', [mode, '50']);
        const before = viewOf(target.pid);
        for (let turn = 0; turn < 12; turn++) {
          await using dump = await dumpOf(target.pid, { capture, lanes: 1 + (turn % 2) });
          await expectRightImage(dump, target.info);
          await target.check();
        }
        const after = viewOf(target.pid);
        expect(after.state).toBe(before.state);
        expect(after.status.TracerPid).toBe('0');
        expect(after.descriptors).toEqual(before.descriptors);
      });
    }
  }
});

describe('a target', () => {
  it('whose first thread has ended is dumped or refused', async () => {
    await using target = await startTarget<ChurnInfo>('churn', ['leaderless']);
    const before = threadsOf(target.pid);
    for (const capture of CAPTURES) {
      const outcome = await outcomeOf(dumpOf(target.pid, { capture }));
      await using dump = dumpIn(outcome);
      if (dump !== undefined) {
        await expectRightImage(dump, target.info);
      } else {
        expect(['ERR_SLUICE_ZOMBIE', 'ERR_SLUICE_UNSUPPORTED_TARGET']).toContain(outcome);
      }
      expect(threadsOf(target.pid)).toEqual(before);
      await target.check();
    }
  });

  it('with a thread that cannot be stopped is let go again', async () => {
    await using target = await startTarget<ChurnInfo>('churn', ['vfork-wait']);
    const before = viewOf(target.pid);
    for (const capture of CAPTURES) {
      const error = await failedDumpOf(target.pid, { capture, freezeTimeoutMs: 300 });
      expect(error).toMatchObject({ code: 'ERR_SLUICE_FREEZE_TIMEOUT', thawed: true });
      await assertUntouched(target.pid, before);
      await target.check();
    }
  });
});

function holds({ image }: Dump, { pid, memory }: ChurnInfo): boolean {
  const start = BigInt(memory);
  return [...image.runs(pid)].some(
    ({ address, pages }) => address <= start && start < address + BigInt(pages) * 4096n,
  );
}

/** How often it has executed itself; undefined in the middle of an execve, when it has no memory. */
function turnOf(pid: number): string | undefined {
  const environ = orGone(() => readFileSync(`/proc/${pid}/environ`, 'latin1')) ?? '';
  const variables = environ.split('\0');
  return variables.find((variable) => variable.startsWith('SLUICE_CHURN_TURN='));
}
