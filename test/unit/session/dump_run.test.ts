import { setTimeout as sleep } from 'node:timers/promises';
import type { DumpResult } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { DumpRun } from '../../../packages/core/dist/session/dump_run.js';

const RESULT = { pid: 1 } as DumpResult;

describe('DumpRun', () => {
  it('can be awaited', async () => {
    expect(await new DumpRun(async () => RESULT)).toBe(RESULT);
    await expect(
      Promise.resolve(new DumpRun(() => Promise.reject(new Error('no')))),
    ).rejects.toThrow('no');
  });

  it('tells phase and counters, at most about ten times a second, and the last state', async () => {
    const run = new DumpRun(async (meter) => {
      let pagesCaptured = 0;
      meter.expectPages(50);
      meter.connect(() => ({ pagesCaptured: ++pagesCaptured, bytesDrained: 0, frozen: false }));
      meter.enter('capture');
      await sleep(550);
      meter.disconnect();
      meter.enter('publish');
      return RESULT;
    });
    const seen = [];
    for await (const progress of run) seen.push(progress);
    expect(seen.length).toBeGreaterThan(2);
    expect(seen.length).toBeLessThan(9);
    expect(seen[0]).toMatchObject({ phase: 'capture', pagesExpected: 50, pagesCaptured: 1 });
    expect(seen.at(-1)).toMatchObject({ phase: 'publish' });
  });

  it('says nothing while the target is frozen', async () => {
    let frozen = true;
    const run = new DumpRun(async (meter) => {
      meter.connect(() => ({ pagesCaptured: 0, bytesDrained: 0, frozen }));
      await sleep(300);
      frozen = false;
      meter.disconnect();
      return RESULT;
    });
    const seen = [];
    for await (const progress of run) seen.push(progress);
    expect(seen).toHaveLength(1);
  });

  it('throws from the iteration what the dump throws, and leaves nothing unhandled', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    process.on('unhandledRejection', note);
    const run = new DumpRun(async () => {
      await sleep(20);
      throw new Error('disk full');
    });
    const iterate = async () => {
      for await (const _ of run);
    };
    await expect(iterate()).rejects.toThrow('disk full');
    await sleep(10);
    process.removeListener('unhandledRejection', note);
    expect(unhandled).toEqual([]);
  });

  it('goes on when an iteration is left', async () => {
    const run = new DumpRun(async () => {
      await sleep(50);
      return RESULT;
    });
    for await (const _ of run) break;
    expect(await run).toBe(RESULT);
  });
});
