/** Targets in other namespaces than the dumper, and in containers. */
import { describe, it } from 'vitest';
import { expectLeftAlone, startAwkward } from '../harness/awkward.js';
import { type ContainerOptions, containerRefusal, startContainer } from '../harness/container.js';
import { leakCheck } from '../harness/leaks.js';
import { TempDir } from '../harness/temp.js';

leakCheck();

/** Calls that Sluice makes in a target. */
const KILLING = ['userfaultfd', 'vmsplice', 'pipe2'];

const noContainer = await containerRefusal();

describe('a target in a namespace of its own', () => {
  it.for(['user', 'pid,mnt,net', 'user,pid,mnt,net,ipc,uts,time,cgroup'])(
    '%s',
    async (names, ctx) => {
      await using target = await startAwkward(`unshare=${names}`);
      if (target.info.absent !== undefined) ctx.skip(`no ${target.info.absent} here`);
      await expectLeftAlone(target);
    },
  );
});

describe('a target in a container', () => {
  it.for<[string, ContainerOptions]>([
    ['of root', {}],
    ['of another user, with a seccomp filter', { userNamespace: true, killing: KILLING }],
  ])('%s', async ([, options], ctx) => {
    if (noContainer !== undefined) ctx.skip(noContainer);
    await using dir = new TempDir();
    await using target = await startContainer(dir, ['nofile=16'], options);
    await expectLeftAlone(target, {}, { compare: { hiddenFile: '/target' } });
  });
});
