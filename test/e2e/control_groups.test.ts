/** Targets at the limits of their control group, of version 1 or 2. */
import { cleanTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import {
  expectLeftAlone,
  expectOutcome,
  startAwkward,
  WAYS,
  withoutHelper,
} from '../harness/awkward.js';
import { ControlGroup, FREEZERS, Freezer, groupsOf } from '../harness/cgroup.js';
import { dumpOf, failureOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { restoreInto } from '../harness/patient.js';
import { readStatus } from '../harness/procfs.js';
import { startTarget } from '../harness/target.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

describe('a target in a control group', () => {
  it.skipIf(groupsOf('pids') === undefined)('that may have no more tasks', async () => {
    await using group = new ControlGroup('pids');
    await using target = await startAwkward();
    group.add(target.pid);
    group.set('pids.max', 1);
    await expectLeftAlone(target, withoutHelper(/limit on its processes/));
  });

  // The kernel kills it for the page that somebody else makes it use.
  it.skipIf(groupsOf('memory') === undefined)('that may use no more memory', async () => {
    await using group = new ControlGroup('memory');
    await using target = await startTarget('awkward', [], { group: group.path });
    await target.check();
    const [limit, usage] = group.isVersion1
      ? ['memory.limit_in_bytes', 'memory.usage_in_bytes']
      : ['memory.max', 'memory.current'];
    const roomFor = (bytes: number) => group.set(limit, Number(group.get(usage)) + bytes);
    const killed = () =>
      /oom_kill (\d+)/.exec(group.get(group.isVersion1 ? 'memory.oom_control' : 'memory.events'));
    roomFor(96 << 10);
    await expectLeftAlone(target, withoutHelper(/limit on memory.* leaves \d+ KiB/));
    // Enough for a helper, and not for all that a twin may come to.
    roomFor(1792 << 10);
    await expectLeftAlone(target, {
      twin: {
        capture: 'vmsplice',
        consistency: 'copy',
        consistency_reason: expect.stringContaining('limit on memory'),
      },
      rounds: { capture: expect.stringMatching('vmsplice|read') },
    });
    expect(killed()?.[1]).toBe('0');
  });

  // One of version 1 lets no tracer in.
  it.skipIf(groupsOf('unified') === undefined)('of version 2 that is frozen', async () => {
    await using group = new ControlGroup('unified');
    await using target = await startAwkward();
    const { pid } = target;
    await using earlier = await dumpOf(pid);
    group.add(pid);
    const before = viewOf(pid);
    const expected = withoutHelper(/its control group is frozen/);
    {
      using freezer = new Freezer(group, FREEZERS[1]);
      await freezer.freeze();
      for (const way of ['vmsplice', 'twin', 'rounds'] as const) {
        await expectOutcome(target, WAYS[way], expected[way] ?? {});
        await assertUntouched(pid, before);
      }
      const restore = await failureOf(restoreInto(pid, earlier.image, { force: true }));
      expect(restore).toMatchObject({ code: expected.restore, thawed: true });
      await assertUntouched(pid, before);
    }
    await expectLeftAlone(target);
  });

  // The helpers stand still as well.
  for (const [ending, how] of [
    ['aborted', FREEZERS[0]],
    ['aborted', FREEZERS[1]],
    ['given up', FREEZERS[1]],
  ] as const) {
    it(`that is frozen during a dump, which is ${ending} (version ${how.version})`, async (ctx) => {
      if (groupsOf(how.controller) === undefined) ctx.skip('no such control groups here');
      await using group = new ControlGroup(how.controller);
      await using target = await startTarget('writer', ['16', '1000']);
      const { pid } = target;
      group.add(pid);
      const before = viewOf(pid);
      const controller = new AbortController();
      let frozen: Promise<void> | undefined;
      {
        using freezer = new Freezer(group, how);
        const dump = dumpOf(pid, { rounds: 40, signal: controller.signal }, () => {
          frozen ??= freezer.freeze().then(() => {
            if (ending === 'aborted') controller.abort();
          });
        });
        const code = ending === 'aborted' ? 'ABORT_ERR' : 'ERR_SLUICE_FREEZE_TIMEOUT';
        await expect(dump).rejects.toMatchObject({ code, thawed: true });
        expect(readStatus(pid).get('TracerPid')).toBe('0');
        await frozen;
      }
      await target.check();
      await cleanTarget(pid);
      await assertUntouched(pid, before);
      await using again = await dumpOf(pid);
      await again.image.verify();
    });
  }
});
