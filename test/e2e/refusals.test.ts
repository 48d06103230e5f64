/** What cannot be dumped is refused with its own code, and nothing is touched, here or there. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { openTarget, type SluiceErrorCode } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failedDumpOf, failureOf } from '../harness/dump.js';
import { withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess } from '../harness/patient.js';
import { orGone, readStat, readStatus, stateOf, threadsOf } from '../harness/procfs.js';
import { dumpAs, NOBODY, strangerRefusal } from '../harness/stranger.js';
import { startTarget } from '../harness/target.js';
import { mountRefusal, SmallDisk, TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const noMount = await mountRefusal();

async function expectRefused(pid: number, code: SluiceErrorCode): Promise<void> {
  expect(await failureOf(openTarget(pid))).toMatchObject({ code });
  expect(await failedDumpOf(pid)).toMatchObject({ code });
}

describe('no dump of', () => {
  const noPids = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 22 + 1, 2 ** 31, 2 ** 53];
  for (const pid of noPids) {
    it(`${pid}, which is no pid`, () => expectRefused(pid, 'ERR_SLUICE_OPTION'));
  }

  for (const pid of ['1', 1n, undefined, null, {}, [1]]) {
    const text = typeof pid === 'bigint' ? `${pid}n` : JSON.stringify(pid);
    it(`${text}, which is no number`, () =>
      expectRefused(pid as unknown as number, 'ERR_SLUICE_OPTION'));
  }

  it('a process that has ended', async () => {
    const target = await startTarget('churn', ['still']);
    await target.stop();
    await expectRefused(target.pid, 'ERR_SLUICE_NO_SUCH_PROCESS');
  });

  it('a target that has ended since it was opened', async () => {
    const process = await startTarget('churn', ['still']);
    await using target = await openTarget(process.pid);
    await process.stop();
    await using dir = new TempDir();
    const failure = await failureOf(target.dump({ dir: dir.join('image') }));
    expect(failure.code).toBe('ERR_SLUICE_NO_SUCH_PROCESS');
    expect(readdirSync(dir.path)).toEqual([]);
  });

  it('a kernel thread', async (ctx) => {
    const pid = readdirSync('/proc')
      .map(Number)
      .find((candidate) => candidate > 0 && isKernelThread(candidate));
    if (pid === undefined) ctx.skip('no kernel thread can be seen from this pid namespace');
    else await expectRefused(pid, 'ERR_SLUICE_KERNEL_THREAD');
  });

  it('a zombie', async () => {
    await using target = await startTarget<{ pid: number; zombie: number }>('zombie');
    await expectRefused(target.info.zombie, 'ERR_SLUICE_ZOMBIE');
    expect(stateOf(target.info.zombie)).toBe('Z');
    await target.check();
  });

  it('the dumping process itself', () => expectRefused(process.pid, 'ERR_SLUICE_SELF'));

  it('a parent of it', () => expectRefused(process.ppid, 'ERR_SLUICE_ANCESTOR'));

  it('any ancestor of it', async () => {
    const before: number[] = [];
    for (let pid = process.ppid; pid > 0; pid = Number(readStatus(pid).get('PPid'))) {
      before.push(pid);
    }
    for (const pid of before) await expectRefused(pid, 'ERR_SLUICE_ANCESTOR');
  });

  it('a thread that is not the first of its process', async () => {
    await using target = await startTarget('writer', ['1', '1']);
    const before = viewOf(target.pid);
    const other = threadsOf(target.pid).find((tid) => tid !== target.pid) ?? 0;
    await expectRefused(other, 'ERR_SLUICE_NO_SUCH_PROCESS');
    await assertUntouched(target.pid, before, { busy: true });
    await target.check();
  });

  it('a process that is traced already', async () => {
    await using target = await startTarget('churn', ['still']);
    {
      await using tracer = await startTarget('tracer', [String(target.pid)]);
      const before = viewOf(target.pid);
      expect(before.status.TracerPid).toBe(String(tracer.pid));
      await expectRefused(target.pid, 'ERR_SLUICE_ALREADY_TRACED');
      await assertUntouched(target.pid, before);
      await target.check();
    }
    await using dump = await dumpOf(target.pid);
    await dump.image.verify();
  });

  it('a process that is dumped already', async () => {
    await using process = await startTarget('writer', ['64', '1']);
    await using target = await openTarget(process.pid);
    await using dir = new TempDir();
    const first = target.dump({ dir: dir.join('first') });
    const second = await failureOf(target.dump({ dir: dir.join('second') }));
    expect(second.code).toBe('ERR_SLUICE_ALREADY_TRACED');
    await first;
    expect(readdirSync(dir.path)).toEqual(['first']);
    await process.check();
  });

  it('a 32-bit program', async (ctx) => {
    await using dir = new TempDir();
    const path = dir.join('pause32');
    writeFileSync(path, elf32(), { mode: 0o755 });
    const { error, status } = spawnSync(path, ['end']);
    if (error !== undefined || status !== 7) ctx.skip('this kernel runs no 32-bit programs');
    const child = spawn(path, { stdio: 'ignore' });
    try {
      await expectRefused(child.pid ?? 0, 'ERR_SLUICE_UNSUPPORTED_TARGET');
      expect(stateOf(child.pid ?? 0)).toBe('S');
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});

describe('no dump without permission', () => {
  it('of a process of another user', async (ctx) => {
    const refusal = strangerRefusal();
    if (refusal !== undefined) ctx.skip(refusal);
    await using target = await startTarget('churn', ['still']);
    await using dir = new TempDir();
    dir.open();
    const before = viewOf(target.pid);
    expect(dumpAs(NOBODY, target.pid, dir.join('image'))).toMatchObject({
      status: 1,
      stdout: '',
      stderr: expect.stringContaining('ERR_SLUICE_PERMISSION'),
    });
    expect(readdirSync(dir.path)).toEqual([]);
    await assertUntouched(target.pid, before);
    await target.check();
  });

  it('into a directory of another user', async (ctx) => {
    const refusal = strangerRefusal();
    if (refusal !== undefined) ctx.skip(refusal);
    await using target = await startTarget('churn', ['still'], { uid: NOBODY });
    await using dir = new TempDir();
    dir.open();
    mkdirSync(dir.join('closed'), { mode: 0o700 });
    mkdirSync(dir.join('readable'), { mode: 0o755 });
    const before = viewOf(target.pid);
    for (const name of ['closed', 'readable', 'readable/image']) {
      expect(dumpAs(NOBODY, target.pid, dir.join(name))).toMatchObject({
        status: 1,
        stderr: expect.stringContaining('ERR_SLUICE_OUTPUT_NOT_WRITABLE'),
      });
    }
    expect(namesIn(dir.path)).toEqual(['closed', 'readable']);
    await assertUntouched(target.pid, before);
    await target.check();
    // The same user may do it elsewhere: it was the directory.
    expect(dumpAs(NOBODY, target.pid, dir.join('image'))).toMatchObject({ status: 0 });
    await assertUntouched(target.pid, before);
    await target.check();
  });
});

describe('no dump into', () => {
  const kinds: [string, SluiceErrorCode, (dir: TempDir) => string][] = [
    [
      'a directory with something in it',
      'ERR_SLUICE_OUTPUT_EXISTS',
      (dir) => {
        writeFileSync(dir.join('kept'), 'kept');
        return dir.path;
      },
    ],
    [
      'a file',
      'ERR_SLUICE_OUTPUT_NOT_WRITABLE',
      (dir) => {
        writeFileSync(dir.join('kept'), 'kept');
        return dir.join('kept');
      },
    ],
    [
      'a directory in a file',
      'ERR_SLUICE_OUTPUT_NOT_WRITABLE',
      (dir) => {
        writeFileSync(dir.join('kept'), 'kept');
        return dir.join('kept', 'image');
      },
    ],
    [
      'a directory whose parent is missing',
      'ERR_SLUICE_OUTPUT_NOT_WRITABLE',
      (dir) => dir.join('missing', 'image'),
    ],
    [
      'a dangling link',
      'ERR_SLUICE_OUTPUT_NOT_WRITABLE',
      (dir) => {
        symlinkSync(dir.join('missing'), dir.join('kept'));
        return dir.join('kept');
      },
    ],
    ['a place in /proc', 'ERR_SLUICE_OUTPUT_NOT_WRITABLE', () => '/proc/sluice-test'],
    ['an image', 'ERR_SLUICE_OUTPUT_EXISTS', (dir) => dir.join('image')],
  ];
  for (const [title, code, make] of kinds) {
    it(title, async () => {
      await using target = await startTarget('churn', ['still']);
      await using dir = new TempDir();
      if (title === 'an image') await dumpProcess(target.pid, { dir: dir.join('image') });
      const path = make(dir);
      const before = viewOf(target.pid);
      const filesBefore = namesIn(dir.path);
      expect(await failureOf(dumpProcess(target.pid, { dir: path }))).toMatchObject({ code });
      expect(namesIn(dir.path)).toEqual(filesBefore);
      if (filesBefore.includes('kept') && title !== 'a dangling link') {
        expect(readFileSync(dir.join('kept'), 'utf8')).toBe('kept');
      }
      await assertUntouched(target.pid, before);
      await target.check();
    });
  }

  for (const capture of ['vmsplice', 'read'] as const) {
    for (const [title, faults] of [
      ['that is too small', []],
      // Without preallocation it shows only when the pages come.
      ['that gets full in the middle', [{ call: 'fallocate', errno: 'EOPNOTSUPP' }]],
    ] as const) {
      it(`a disk ${title} (${capture})`, async (ctx) => {
        if (noMount !== undefined) ctx.skip(noMount);
        await using target = await startTarget('writer', ['64', '1']);
        await using disk = new SmallDisk(16 << 20);
        const before = viewOf(target.pid);
        const failure = await withFaults([...faults], () =>
          failureOf(dumpProcess(target.pid, { dir: disk.join('image'), capture })),
        );
        expect(failure).toMatchObject({
          code: 'ERR_SLUICE_DISK_FULL',
          syscall: faults.length > 0 ? 'splice' : 'fallocate',
          thawed: true,
        });
        expect(readdirSync(disk.path)).toEqual([]);
        await assertUntouched(target.pid, before, { busy: true });
        await target.check();
      });
    }
  }
});

describe('no dump with a wrong option', () => {
  const wrong: Record<string, unknown>[] = [
    { lanes: 0 },
    { lanes: 65 },
    { lanes: 1.5 },
    { lanes: '2' },
    { drains: -1 },
    { capture: 'vmsplic' },
    { capture: null },
    { io: 'fast' },
    { checksum: 'md5' },
    { budgetBytes: 1000 },
    { budgetBytes: Number.NaN },
    { freezeTimeoutMs: 0 },
    { signal: 'abort' },
    { logger: 'console' },
    { unknown: true },
    { dir: '' },
    { dir: 'a\0b' },
    { dir: 7 },
    { dir: undefined },
  ];
  for (const options of wrong) {
    it(JSON.stringify(options), async () => {
      await using target = await startTarget('churn', ['still']);
      await using dir = new TempDir();
      const before = viewOf(target.pid);
      const given = { dir: dir.join('image'), ...options };
      const failure = await failureOf(dumpProcess(target.pid, given as { dir: string }));
      expect(failure.code).toBe('ERR_SLUICE_OPTION');
      expect(failure.message).toContain(Object.keys(options)[0]);
      expect(readdirSync(dir.path)).toEqual([]);
      await assertUntouched(target.pid, before);
    });
  }
});

function namesIn(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' }).sort();
}

function isKernelThread(pid: number): boolean {
  const PF_KTHREAD = 0x200000;
  const flags = orGone(() => readStat(`/proc/${pid}/stat`)[6]);
  return flags !== undefined && (Number(flags) & PF_KTHREAD) !== 0;
}

/** A 32-bit program that waits for a signal, or ends with 7 if it has an argument. */
function elf32(): Buffer {
  const code = Buffer.from('8b042483f8017f09b81d000000cd80ebf7b801000000bb07000000cd80', 'hex');
  const base = 0x08048000;
  const headers = 52 + 32;
  const elf = Buffer.alloc(headers);
  elf.write('7f454c46010101', 'hex');
  elf.writeUInt16LE(2, 16); // executable
  elf.writeUInt16LE(3, 18); // 386
  elf.writeUInt32LE(1, 20);
  elf.writeUInt32LE(base + headers, 24); // entry
  elf.writeUInt32LE(52, 28); // program headers
  elf.writeUInt16LE(52, 40);
  elf.writeUInt16LE(32, 42);
  elf.writeUInt16LE(1, 44);
  elf.writeUInt32LE(1, 52); // load
  elf.writeUInt32LE(base, 60);
  elf.writeUInt32LE(base, 64);
  elf.writeUInt32LE(headers + code.length, 68);
  elf.writeUInt32LE(headers + code.length, 72);
  elf.writeUInt32LE(5, 76); // read, execute
  elf.writeUInt32LE(4096, 80);
  return Buffer.concat([elf, code]);
}
