/** Limits of control groups of version 2, which is what this machine has. */
import { expect, it } from 'vitest';
import { startAwkward, withoutHelper } from '../harness/awkward.js';
import { ControlGroup } from '../harness/cgroup.js';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';

leakCheck();

it.each([
  ['memory', 'memory.max', 'memory.current', 96 << 10, /limit on memory.* leaves \d+ KiB/],
  ['pids', 'pids.max', 'pids.current', 0, /limit on its processes/],
] as const)('the limit on %s is seen', async (controller, limit, usage, room, reason) => {
  await using group = new ControlGroup(controller);
  await using target = await startAwkward();
  group.add(target.pid);
  group.set(limit, Number(group.get(usage)) + room);
  await using dump = await dumpOf(target.pid);
  expect(dump.result).toMatchObject(withoutHelper(reason).rounds ?? {});
  await dump.image.verify();
  await target.check();
});
