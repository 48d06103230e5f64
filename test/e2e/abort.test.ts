/** A dump that is ended by its signal, or by closing its target, ends soon and leaves nothing. */
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { AbortError, openTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess } from '../harness/patient.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { within } from '../harness/wait.js';

leakCheck();

const TURNS = 20;

describe('a dump that is aborted', () => {
  it('before it begins touches nothing', async () => {
    await using target = await startTarget('churn', ['still']);
    await using dir = new TempDir();
    const before = viewOf(target.pid);
    const reason = new Error('no more');
    const dump = dumpProcess(target.pid, {
      dir: dir.join('image'),
      signal: AbortSignal.abort(reason),
    });
    await expect(dump).rejects.toMatchObject({
      name: 'AbortError',
      code: 'ABORT_ERR',
      cause: reason,
    });
    expect(readdirSync(dir.path)).toEqual([]);
    await assertUntouched(target.pid, before);
  });

  for (const capture of ['vmsplice', 'read'] as const) {
    it(`at any moment leaves the target as it was (${capture})`, { timeout: 120_000 }, async () => {
      await using target = await startTarget('writer', ['48', '500']);
      const before = viewOf(target.pid);
      const start = performance.now();
      {
        await using _ = await dumpOf(target.pid, { capture });
      }
      let took = performance.now() - start;
      let aborted = 0;
      for (let turn = 0; turn < TURNS; turn++) {
        await using dir = new TempDir();
        const controller = new AbortController();
        const begun = performance.now();
        const dump = within(
          'an aborted dump',
          dumpProcess(target.pid, { dir: dir.join('image'), capture, signal: controller.signal }),
        ).then(
          // The first dump may have been slower than the others are.
          () => {
            took = Math.min(took, performance.now() - begun);
          },
          (error: unknown) => error,
        );
        await sleep((took * turn) / TURNS);
        controller.abort(new Error('enough'));
        const error = await dump;
        if (error === undefined) {
          expect(readdirSync(dir.join('image'))).toContain('manifest.msgpack');
        } else {
          expect(error).toBeInstanceOf(AbortError);
          expect(readdirSync(dir.path)).toEqual([]);
          aborted++;
        }
        await assertUntouched(target.pid, before, { busy: true });
      }
      // Beside the first, which ends before anything began.
      expect(aborted).toBeGreaterThan(1);
      await target.check();
    });
  }

  it('by closing its target ends likewise', async () => {
    await using process = await startTarget('writer', ['64', '1']);
    const before = viewOf(process.pid);
    await using dir = new TempDir();
    const target = await openTarget(process.pid);
    const dump = target.dump({ dir: dir.join('image') }).then(
      () => undefined,
      (error: unknown) => error,
    );
    await target.close();
    expect(await dump).toBeInstanceOf(AbortError);
    expect(readdirSync(dir.path)).toEqual([]);
    await assertUntouched(process.pid, before, { busy: true });
    await process.check();
  });

  it('leaves no listener on its signal', async () => {
    await using target = await startTarget('churn', ['still']);
    const counting = new CountingSignal();
    for (let turn = 0; turn < 3; turn++) {
      await using _ = await dumpOf(target.pid, { signal: counting.signal });
    }
    expect(counting.listeners).toBe(0);
  });
});

describe('progress', () => {
  it('is told in order, and ends with the dump', async () => {
    await using target = await startTarget('writer', ['64', '1']);
    await using dir = new TempDir();
    const run = dumpProcess(target.pid, { dir: dir.join('image') });
    const phases: string[] = [];
    let captured = 0;
    for await (const { phase, pagesCaptured } of run) {
      if (phases.at(-1) !== phase) phases.push(phase);
      expect(pagesCaptured).toBeGreaterThanOrEqual(captured);
      captured = pagesCaptured;
    }
    const order = ['attach', 'survey', 'open', 'capture', 'seal', 'publish'];
    expect(phases).toEqual(order.filter((phase) => phases.includes(phase)));
    expect(phases.at(-1)).toBe('publish');
    expect(captured).toBe((await run).pages_written);
  });
});

describe('the budget', () => {
  for (const capture of ['vmsplice', 'read'] as const) {
    for (const mebibytes of [1, 8, 64]) {
      for (const lanes of [1, 4]) {
        it(`of ${mebibytes} MiB bounds what is pinned (${capture}, ${lanes} lanes)`, async () => {
          await using target = await startTarget('writer', ['96', '1', 'thp']);
          const budgetBytes = mebibytes * 1024 * 1024;
          await using dump = await dumpOf(target.pid, { capture, lanes, budgetBytes });
          expect(dump.result.pinned_peak_bytes).toBeLessThanOrEqual(budgetBytes);
          expect(dump.result.pinned_peak_bytes).toBeGreaterThan(0);
          await dump.image.verify();
        });
      }
    }
  }
});

/** A signal that knows how many listen to it. */
class CountingSignal {
  listeners = 0;
  readonly signal: AbortSignal;

  constructor() {
    const signal = new AbortController().signal;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      this.listeners++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      this.listeners--;
      remove(...args);
    };
    this.signal = signal;
  }
}
