/** Targets at their limits, of their own and of their control group. */
import { describe, expect, it } from 'vitest';
import { type Expected, expectLeftAlone, startAwkward, withoutHelper } from '../harness/awkward.js';
import { ControlGroup, groupsOf } from '../harness/cgroup.js';
import { leakCheck } from '../harness/leaks.js';
import { startTarget } from '../harness/target.js';

leakCheck();

const isRoot = process.getuid?.() === 0;
/** No user that anything else runs as. */
const UID = 54_322;

describe('a target at its limit of', () => {
  it.each<[string, string[], Expected]>([
    ['descriptors', ['nofile=8'], {}],
    ['address space', ['as'], withoutHelper(/limit on its address space.*Cannot allocate/)],
    ['stack', ['stack'], withoutHelper(/no thread was on a stack with room/)],
  ])('%s', async (_title, conditions, expected) => {
    await using target = await startAwkward(...conditions);
    await expectLeftAlone(target, expected);
  });

  it.skipIf(!isRoot).each<[string, string[], Expected]>([
    ['processes', [`user=${UID}`, 'nproc=1'], withoutHelper(/limit on its processes/)],
    ['locked memory', [`user=${UID}`, 'memlock'], withoutHelper(/no memory could be mapped/)],
  ])('%s', async (_title, conditions, expected) => {
    await using target = await startAwkward(...conditions);
    await expectLeftAlone(target, expected);
  });
});

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
});
