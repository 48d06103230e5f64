/**
 * Every call of the native layer that can fail, failing once, at its first, its second and later occurrences:
 * the work is done with the right result, or fails with a typed error and leaves nothing. The process is as it
 * was in any case. SLUICE_SWEEP=all looks at each occurrence instead of some.
 */
import { readdirSync } from 'node:fs';
import { openImage, SluiceError } from '@sluice/core';
import { addon } from '@sluice/native';
import { describe, expect, it } from 'vitest';
import { dumpOf, type Options, storedRanges } from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { coreProcess, dumpProcess, restoreInto } from '../harness/patient.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { LIMIT_MS, within } from '../harness/wait.js';

leakCheck();

const ALL = process.env.SLUICE_SWEEP === 'all';

type Errno = NonNullable<FaultSpec['errno']>;

/** What each may fail with; they take turns. */
const CALLS = {
  openat: ['EMFILE', 'ENFILE', 'EIO', 'ENOMEM', 'ENOSPC', 'EDQUOT', 'EACCES'],
  read: ['EIO', 'ENOMEM'],
  pread64: ['EIO', 'ENOMEM'],
  readlinkat: ['ENOMEM', 'EACCES'],
  fallocate: ['ENOSPC', 'EDQUOT', 'EFBIG', 'EIO'],
  splice: ['ENOSPC', 'EDQUOT', 'EIO', 'EFBIG', 'ENOMEM'],
  vmsplice: ['ENOMEM', 'EAGAIN'],
  ftruncate: ['EIO', 'ENOSPC'],
  fsync: ['EIO', 'ENOSPC', 'EDQUOT'],
  fcntl: ['EPERM', 'EBUSY', 'EINVAL'],
  pipe2: ['EMFILE', 'ENFILE'],
  ioctl: ['ENOMEM', 'EFAULT', 'ENOTTY'],
  process_vm_readv: ['ENOMEM', 'EPERM', 'EFAULT'],
  process_vm_writev: ['ENOMEM', 'EPERM'],
  pidfd_open: ['EMFILE', 'ENOMEM'],
  pidfd_getfd: ['EMFILE', 'EPERM'],
  lseek: ['EIO'],
  flock: ['ENOLCK'],
  prlimit64: ['EPERM'],
  get_robust_list: ['EPERM'],
  sched_setscheduler: ['EPERM'],
  'remote:mmap': ['ENOMEM'],
  'remote:clone': ['EAGAIN', 'ENOMEM'],
  'remote:pipe2': ['EMFILE', 'ENFILE'],
  'remote:userfaultfd': ['EPERM', 'ENOMEM', 'EMFILE'],
  'remote:vmsplice': ['ENOMEM', 'EAGAIN', 'EFAULT'],
} satisfies Record<string, [Errno, ...Errno[]]>;

/** Occurrences that are looked at, one after the other until there is none. */
function* occurrences(): Generator<number> {
  for (let skip = 0; ; skip = ALL ? skip + 1 : Math.max(1, skip * 6)) yield skip;
}

/**
 * Has the `skip`th call fail in `work`, for one occurrence after the other until there is no such one, and
 * looks at what came of it with `check`. Returns what is wrong.
 */
async function sweep(
  call: string,
  errnos: readonly [Errno, ...Errno[]],
  work: () => Promise<unknown>,
  check: (error: unknown) => Promise<void>,
): Promise<string[]> {
  const wrong: string[] = [];
  let turn = 0;
  for (const skip of occurrences()) {
    const errno = errnos[turn++ % errnos.length] ?? errnos[0];
    const where = `${call} ${errno} after ${skip}`;
    let hits = 0;
    const error = await withFaults([{ call, errno, skip, times: 1 }], async () => {
      const outcome = await within(where, work()).then(
        () => undefined,
        (failure: unknown) => failure,
      );
      hits = addon.faultsHit();
      return outcome;
    });
    await check(error).catch((failure: unknown) => wrong.push(`${where} (${error}): ${failure}`));
    if (hits === 0) return wrong;
  }
  return wrong;
}

function expectTyped(error: unknown): void {
  expect(error).toBeInstanceOf(SluiceError);
  const { code } = error as SluiceError;
  expect(error).toMatchObject({ thawed: true });
  expect(['ERR_SLUICE_CANCELLED', 'ERR_SLUICE_WORKER']).not.toContain(code);
}

const ONE: Options = { lanes: 1, drains: 1 };
const OF_TWIN = pick('ioctl', 'process_vm_readv', 'splice', 'remote:clone', 'remote:mmap');

const WAYS: { way: string; options: Options; calls: Partial<typeof CALLS> }[] = [
  { way: 'rounds', options: { ...ONE, rounds: 1 }, calls: CALLS },
  { way: 'twin', options: { ...ONE, rounds: 0, consistency: 'twin' }, calls: OF_TWIN },
];

// Many dumps: a machine that is busy needs long for them.
const PATIENCE = { timeout: (ALL ? 60 : 5) * LIMIT_MS };

describe('a dump with a call that fails', () => {
  for (const { way, options, calls } of WAYS) {
    it(`is right or nothing (${way})`, PATIENCE, async () => {
      await using target = await startTarget('churn', ['still']);
      const { pid } = target;
      await using plain = await dumpOf(pid, options);
      const pages = storedRanges(plain.image, pid);
      const before = viewOf(pid);
      await using dir = new TempDir();
      const image = dir.join('image');
      const wrong: string[] = [];
      for (const [call, errnos] of Object.entries(calls)) {
        const dump = () => dumpProcess(pid, { ...options, dir: image });
        const found = await sweep(
          call,
          errnos,
          async () => dump(),
          async (error) => {
            try {
              if (error === undefined) {
                await using opened = await openImage(image);
                await opened.verify();
                expect(storedRanges(opened, pid)).toEqual(pages);
              } else {
                expectTyped(error);
                expect(readdirSync(dir.path)).toEqual([]);
              }
              await assertUntouched(pid, before);
            } finally {
              dir.clear();
            }
          },
        );
        wrong.push(...found);
      }
      expect(wrong).toEqual([]);
      await target.check();
    });
  }
});

it('a core with a call that fails is right or nothing', PATIENCE, async () => {
  await using target = await startTarget('churn', ['still']);
  const { pid } = target;
  const before = viewOf(pid);
  await using dir = new TempDir();
  const wrong: string[] = [];
  for (const call of ['openat', 'splice', 'fallocate', 'ftruncate'] as const) {
    const core = () => coreProcess(pid, { out: dir.join('core'), lanes: 1, drains: 1, rounds: 0 });
    const found = await sweep(call, CALLS[call], core, async (error) => {
      try {
        if (error !== undefined) expectTyped(error);
        expect(readdirSync(dir.path)).toEqual(error === undefined ? ['core'] : []);
        await assertUntouched(pid, before);
      } finally {
        dir.clear();
      }
    });
    wrong.push(...found);
  }
  expect(wrong).toEqual([]);
  await target.check();
});

const OF_RESTORE = {
  ...pick(
    'openat',
    'read',
    'pread64',
    'ioctl',
    'process_vm_writev',
    'lseek',
    'fcntl',
    'remote:mmap',
  ),
  ...({ pwrite64: ['EIO', 'ENOMEM'] } satisfies Record<string, [Errno, ...Errno[]]>),
} satisfies Record<string, [Errno, ...Errno[]]>;

function pick<Name extends keyof typeof CALLS>(...names: Name[]): Pick<typeof CALLS, Name> {
  return Object.fromEntries(names.map((name) => [name, CALLS[name]])) as Pick<typeof CALLS, Name>;
}

it('a restore with a call that fails leaves a process that runs', PATIENCE, async () => {
  await using dir = new TempDir();
  await using target = await startTarget('restorable', [dir.path]);
  const { pid } = target;
  await using dump = await dumpOf(pid);
  const before = viewOf(pid);
  const wrong: string[] = [];
  for (const [call, errnos] of Object.entries(OF_RESTORE)) {
    // What is written is what is there, so that half of it does no harm.
    const found = await sweep(
      call,
      errnos,
      () => restoreInto(pid, dump.image, { force: true }),
      async (error) => {
        if (error !== undefined) expectTyped(error);
        await assertUntouched(pid, before);
      },
    );
    wrong.push(...found);
  }
  expect(wrong).toEqual([]);
  await target.check();
});
