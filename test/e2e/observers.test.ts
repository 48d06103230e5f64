/**
 * Others that look at a process see the same before and after a session: threads and where they wait,
 * children, mappings with their flags and huge pages, descriptors, timers, signals and settings. What
 * cannot be the same is named in harness/observed.ts, with the reason.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import { dumpOf, type Options } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { cpuNsOf, type FullView, fullViewOf } from '../harness/observed.js';
import { coreProcess, restoreInto } from '../harness/patient.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertClean } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const STILL_MS = 200;
/** Nobody else's: the kernel counts queued signals by user. */
const USER = 61_234;

/** A process that is all there is of its user, so that nobody else changes what it sees of that. */
function startObserved(...args: string[]): Promise<TestTarget> {
  return startTarget('observed', args, process.getuid?.() === 0 ? { uid: USER } : {});
}

/** Once nothing of it moves any more. */
async function viewAtRest(pid: number): Promise<FullView> {
  let view = fullViewOf(pid);
  await waitFor(`process ${pid} rests`, async () => {
    const before = { view, cpu: cpuNsOf(pid) };
    await sleep(50);
    view = fullViewOf(pid);
    return isDeepStrictEqual({ view, cpu: cpuNsOf(pid) }, before);
  });
  return view;
}

/** Fails if others see something else of it than before `session`, or if it does anything after that. */
async function expectUndisturbed(target: TestTarget, session: () => Promise<void>): Promise<void> {
  const before = await viewAtRest(target.pid);
  await session();
  const cpu = cpuNsOf(target.pid);
  expect(await viewAtRest(target.pid)).toEqual(before);
  // Nothing that is left behind runs.
  const resting = cpuNsOf(target.pid);
  expect(Object.keys(resting)).toEqual(Object.keys(cpu));
  await sleep(STILL_MS);
  expect(cpuNsOf(target.pid)).toEqual(resting);
  await assertClean(target.pid);
}

const SESSIONS: [string, Options][] = [
  ['a dump in rounds by vmsplice', { rounds: 2, capture: 'vmsplice', consistency: 'copy' }],
  ['a dump of a twin', { rounds: 1, consistency: 'twin' }],
  ['a dump under one freeze by vmsplice', { rounds: 0, capture: 'vmsplice' }],
  ['a dump from outside', { capture: 'read', tracker: 'none' }],
];

describe('observers see the same after', () => {
  for (const [title, options] of SESSIONS) {
    it(title, async () => {
      await using target = await startObserved();
      await expectUndisturbed(target, async () => {
        await using dump = await dumpOf(target.pid, options);
        const { capture = dump.result.capture } = options;
        expect(dump.result.capture).toBe(capture);
      });
      await target.check();
    });
  }

  it('a core', async () => {
    await using target = await startObserved();
    await using dir = new TempDir();
    await expectUndisturbed(target, async () => {
      await coreProcess(target.pid, { out: dir.join('core') });
    });
    await target.check();
  });

  it('a restore of what is there', async () => {
    await using target = await startObserved();
    await using dump = await dumpOf(target.pid);
    await expectUndisturbed(target, async () => {
      await restoreInto(target.pid, dump.image, { force: true });
    });
    await target.check();
  });

  it('rounds over many huge pages, which begin where no step of a scan ends', async () => {
    await using target = await startObserved('80');
    await expectUndisturbed(target, async () => {
      await using _ = await dumpOf(target.pid, { rounds: 2, checksum: 'none' });
    });
    await target.check();
  });

  it('ten sessions', async () => {
    await using target = await startObserved();
    await expectUndisturbed(target, async () => {
      for (let i = 0; i < 10; i += 1) {
        await using _ = await dumpOf(target.pid, { rounds: i % 2 });
      }
    });
    await target.check();
  });
});

describe('the view', () => {
  it('holds what a session could disturb', async () => {
    await using target = await startObserved();
    const view = await viewAtRest(target.pid);
    expect(view.eachThread).toHaveLength(4);
    expect(view.whole).toMatchObject({ Threads: '4', ShdPnd: expect.not.stringMatching(/^0+$/) });
    expect(view.files.timers?.match(/^ID: /gm)).toHaveLength(3);
    expect(view.files.timerslack_ns).toBe('77777\n');
    expect(view.files.oom_score_adj).toBe('123\n');
    expect(Object.values(view.fdinfo).join('')).toContain('eventfd-count:');
    expect(Object.values(view.fdinfo).join('')).toContain('pos:\t1234');
    expect(Object.values(view.smaps).some(({ Locked }) => Locked === '8 kB')).toBe(true);
    expect((view.children as unknown[]).length).toBe(2);
  });
});
