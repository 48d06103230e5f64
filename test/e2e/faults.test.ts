/**
 * System calls that fail, come up short, or act like another kernel: a dump gets over it with the same
 * image, or fails with the right code. The target is never the worse for it.
 */
import { readdirSync } from 'node:fs';
import type { SluiceErrorCode } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failedDumpOf, failureOf, type Options, storedRanges } from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { whileStopped } from '../harness/oracle.js';
import { dumpProcess } from '../harness/patient.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

interface Case {
  title: string;
  faults: FaultSpec[];
  options?: Options;
}

/** Cases that have the rest in common. */
function alike<const Rest extends object>(rest: Rest, cases: readonly Case[]): (Case & Rest)[] {
  return cases.map((each) => ({ ...each, ...rest }));
}

interface Overcome extends Case {
  /** What the result says about it. */
  result?: object;
}

const ONE: Options = { lanes: 1, drains: 1 };
const SPLICED: Options = { ...ONE, capture: 'vmsplice' };
const READ: Options = { ...ONE, capture: 'read' };

const OVERCOME: Overcome[] = [
  {
    title: 'short splices, O_DIRECT',
    faults: [{ call: 'splice', capBytes: 8192 }],
    options: { io: 'auto' },
  },
  {
    title: 'short splices in the middle of a page, O_DIRECT',
    faults: [{ call: 'splice', capBytes: 3000, times: 700 }],
    options: { io: 'auto' },
  },
  {
    title: 'short splices in the middle of a page, page cache',
    faults: [{ call: 'splice', capBytes: 1234 }],
    options: { io: 'buffered' },
  },
  { title: 'splice interrupted', faults: [{ call: 'splice', errno: 'EINTR', times: 20 }] },
  { title: 'splice not ready', faults: [{ call: 'splice', errno: 'EAGAIN', times: 20 }] },
  {
    title: 'O_DIRECT refused by the first write',
    faults: [{ call: 'splice', errno: 'EINVAL', times: 1 }],
    options: { ...ONE, io: 'auto' },
    result: { io: 'buffered' },
  },
  {
    title: 'O_DIRECT refused by fcntl',
    faults: [{ call: 'fcntl', errno: 'EINVAL' }],
    options: { ...READ, io: 'auto' },
    result: { io: 'buffered' },
  },
  { title: 'no preallocation', faults: [{ call: 'fallocate', errno: 'EOPNOTSUPP' }] },
  ...alike({ options: SPLICED, result: { capture: 'vmsplice' } }, [
    { title: 'no PAGEMAP_SCAN', faults: [{ call: 'ioctl', errno: 'ENOTTY' }] },
    { title: 'short vmsplice', faults: [{ call: 'remote:vmsplice', capBytes: 8192 }] },
    {
      title: 'vmsplice short in the middle of a page',
      faults: [{ call: 'remote:vmsplice', capBytes: 5000, times: 300 }],
    },
    {
      title: 'a pipe that is full before it should be',
      faults: [
        { call: 'remote:vmsplice', capBytes: 65_536, times: 1 },
        { call: 'remote:vmsplice', errno: 'EAGAIN', times: 1 },
      ],
    },
    { title: 'a vmsplice that copies', faults: [{ call: 'remote:vmsplice', mode: 'copy' }] },
    {
      title: 'vmsplice cannot read any page',
      faults: [{ call: 'remote:vmsplice', errno: 'EFAULT', times: 40 }],
    },
  ]),
  ...alike({ options: READ }, [
    { title: 'no PAGEMAP_SCAN, read', faults: [{ call: 'ioctl', errno: 'ENOTTY' }] },
    {
      title: 'a vmsplice that copies, in the read backend',
      faults: [{ call: 'vmsplice', mode: 'copy' }],
    },
    { title: 'short process_vm_readv', faults: [{ call: 'process_vm_readv', capBytes: 12288 }] },
    {
      title: 'process_vm_readv short in the middle of a page',
      faults: [{ call: 'process_vm_readv', capBytes: 5001 }],
    },
    {
      title: 'process_vm_readv cannot read any page',
      faults: [{ call: 'process_vm_readv', errno: 'EFAULT' }],
    },
    ...(['ENOSYS', 'EPERM'] as const).map((errno) => ({
      title: `no process_vm_readv (${errno})`,
      faults: [{ call: 'process_vm_readv', errno }],
    })),
  ]),
  ...alike({ options: ONE, result: { capture: 'read' } }, [
    { title: 'no clone in the target', faults: [{ call: 'remote:clone', errno: 'EAGAIN' }] },
    { title: 'no mmap in the target', faults: [{ call: 'remote:mmap', errno: 'ENOMEM' }] },
    { title: 'no pipe in the helper', faults: [{ call: 'remote:pipe2', errno: 'EMFILE' }] },
    { title: 'no pidfd_getfd', faults: [{ call: 'pidfd_getfd', errno: 'EPERM' }] },
  ]),
  {
    title: 'no clone in the target for one lane of two',
    faults: [{ call: 'remote:clone', errno: 'EAGAIN', skip: 1 }],
    options: { lanes: 2 },
    result: { capture: 'read' },
  },
  {
    title: 'few pipes in the helper',
    faults: [{ call: 'remote:pipe2', errno: 'EMFILE', skip: 2 }],
    options: ONE,
    result: { capture: 'vmsplice' },
  },
];

interface Failing extends Case {
  code: SluiceErrorCode;
}

const FAILING: Failing[] = [
  ...alike({ code: 'ERR_SLUICE_DISK_FULL' }, [
    { title: 'disk full at once', faults: [{ call: 'fallocate', errno: 'ENOSPC' }] },
    ...[0, 1, 5].flatMap((skip) =>
      (['vmsplice', 'read'] as const).map((capture) => ({
        title: `disk full at splice ${skip + 1}, ${capture}`,
        faults: [{ call: 'splice', errno: 'ENOSPC', skip } as const],
        options: { ...ONE, capture, budgetBytes: 1 << 20 },
      })),
    ),
    {
      title: 'disk full for one drain of two',
      faults: [{ call: 'splice', errno: 'ENOSPC', skip: 3, times: 1 }],
      options: { lanes: 2, drains: 2 },
    },
    { title: 'disk quota reached', faults: [{ call: 'splice', errno: 'EDQUOT', skip: 1 }] },
  ]),
  ...alike({ code: 'ERR_SLUICE_IO' }, [
    { title: 'disk broken', faults: [{ call: 'splice', errno: 'EIO', skip: 1 }] },
    { title: 'disk broken at the end', faults: [{ call: 'fsync', errno: 'EIO' }] },
  ]),
  ...alike({ code: 'ERR_SLUICE_DIRECT_IO_UNAVAILABLE' }, [
    {
      title: 'O_DIRECT refused by fcntl',
      faults: [{ call: 'fcntl', errno: 'EINVAL' }],
      options: { ...READ, io: 'direct' },
    },
    {
      title: 'O_DIRECT refused by a write',
      faults: [{ call: 'splice', errno: 'EINVAL' }],
      options: { io: 'direct' },
    },
  ]),
  ...alike({ code: 'ERR_SLUICE_CAPTURE_UNAVAILABLE' }, [
    ...(
      [
        ['remote:clone', 'EAGAIN'],
        ['remote:mmap', 'ENOMEM'],
        ['remote:pipe2', 'EMFILE'],
        ['pidfd_getfd', 'EPERM'],
      ] as const
    ).map(([call, errno]) => ({
      title: `${call} ${errno}, vmsplice asked for`,
      faults: [{ call, errno }],
      options: { capture: 'vmsplice' } as const,
    })),
    {
      title: 'the second lane cannot start, vmsplice asked for',
      faults: [{ call: 'remote:clone', errno: 'EAGAIN', skip: 1 }],
      options: { capture: 'vmsplice', lanes: 2 },
    },
  ]),
  {
    title: 'vmsplice fails in the middle',
    faults: [{ call: 'remote:vmsplice', errno: 'ENOMEM', skip: 1 }],
    options: SPLICED,
    code: 'ERR_SLUICE_SYSTEM',
  },
  // That short results come about at all: they take more calls than long ones.
  ...(
    [
      ['splice', {}, 'ERR_SLUICE_IO'],
      ['remote:vmsplice', SPLICED, 'ERR_SLUICE_SYSTEM'],
      ['process_vm_readv', READ, 'ERR_SLUICE_SYSTEM'],
    ] as const
  ).map(
    ([call, options, code]): Failing => ({
      title: `${call} fails after 200 short ones`,
      faults: [
        { call, capBytes: 8192, times: 200 },
        { call, errno: 'EIO' },
      ],
      options,
      code,
    }),
  ),
  {
    title: 'ptrace is not allowed',
    faults: [{ call: 'ptrace', errno: 'EPERM' }],
    code: 'ERR_SLUICE_PERMISSION',
  },
];

describe('a dump gets over', () => {
  for (const { title, faults, options = {}, result = {} } of OVERCOME) {
    it(title, async () => {
      await using target = await startTarget('churn', ['exit']);
      const { pid } = target;
      await whileStopped(pid, async (memory) => {
        await using plain = await dumpOf(pid, options);
        const before = viewOf(pid);
        await using dump = await withFaults(faults, () => dumpOf(pid, options));
        await assertUntouched(pid, before);
        expect(dump.result).toMatchObject(result);
        // The same pages as without the fault, and the right bytes.
        expect(storedRanges(dump.image, pid)).toEqual(storedRanges(plain.image, pid));
        await dump.image.verify();
        await memory.compare(dump.image);
      });
      await target.check();
    });
  }

  it('no PAGEMAP_SCAN: the same pages of every kind of mapping', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('mappings', [dir.path]);
    const { pid } = target;
    await whileStopped(pid, async () => {
      await using plain = await dumpOf(pid, { capture: 'read' });
      await using dump = await withFaults([{ call: 'ioctl', errno: 'ENOTTY' }], () =>
        dumpOf(pid, { capture: 'read' }),
      );
      expect(storedRanges(dump.image, pid)).toEqual(storedRanges(plain.image, pid));
    });
    await target.check();
  });
});

describe('a dump fails well:', () => {
  for (const { title, faults, options = {}, code } of FAILING) {
    it(title, async () => {
      await using target = await startTarget('churn', ['exit']);
      const { pid } = target;
      const before = viewOf(pid);
      const error = await withFaults(faults, () => failedDumpOf(pid, options));
      expect(error).toMatchObject({ code, thawed: true });
      await assertUntouched(pid, before);
      await target.check();
      // And the next one works.
      await using dump = await dumpOf(pid, options);
      await dump.image.verify();
      await assertUntouched(pid, before);
    });
  }

  it('leaves the files of an existing directory alone when it fails', async () => {
    await using target = await startTarget('churn', ['exit']);
    await using dir = new TempDir();
    const failure = await withFaults([{ call: 'splice', errno: 'ENOSPC', skip: 1 }], () =>
      failureOf(dumpProcess(target.pid, { dir: dir.path })),
    );
    expect(failure.code).toBe('ERR_SLUICE_DISK_FULL');
    expect(readdirSync(dir.path)).toEqual([]);
  });

  it('has a seam that refuses calls it does not know', async () => {
    await expect(withFaults([{ call: 'no_such_call' }], async () => undefined)).rejects.toThrow(
      'no_such_call',
    );
  });
});
