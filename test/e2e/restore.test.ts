/** An image put back into the process that it was taken of: to the byte, or not at all. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import {
  AbortError,
  type Image,
  openImage,
  type RestoreResult,
  type SluiceError,
  type SluiceErrorCode,
} from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { expectFree } from '../harness/death.js';
import { type Dump, dumpOf, failureOf } from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { whileStopped } from '../harness/oracle.js';
import { restoreInto, sluice, startSluice } from '../harness/patient.js';
import { isStopped, readStatus, threadsOf } from '../harness/procfs.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor, within } from '../harness/wait.js';

leakCheck();

const SEEDS = Array.from({ length: 12 }, (_, index) => index * 7919 + 1);

/** The memory of a process is that of the image, and nothing else about the process has changed. */
async function expectRestored(pid: number, { image }: Dump): Promise<void> {
  await whileStopped(pid, (memory) => memory.compare(image, { restored: true }));
}

function restore(pid: number, image: Image | string, shared = false): Promise<RestoreResult> {
  return within('a restore', restoreInto(pid, image, { force: true, shared }));
}

/** Its input and output are pipes. */
const WARNINGS = [expect.stringMatching(/^What is in pipes/)];

/** Waits until all threads of a process sleep. */
async function settled(pid: number): Promise<void> {
  await waitFor(`process ${pid} waits`, async () => {
    const calls = () =>
      threadsOf(pid).map((tid) => readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'latin1'));
    const before = calls();
    await sleep(20);
    return !before.includes('running\n') && isDeepStrictEqual(calls(), before);
  });
}

/** Runs `work` with a process that has a directory of its own. */
async function withTarget(
  args: string[],
  work: (target: TestTarget, dir: TempDir) => Promise<void>,
): Promise<void> {
  await using dir = new TempDir();
  await using target = await startTarget('restorable', [dir.path, ...args]);
  await work(target, dir);
}

describe('a restore brings back', () => {
  it('memory that has not changed, and changes no mapping for that', () =>
    withTarget([], async (target) => {
      const { pid } = target;
      await using dump = await dumpOf(pid);
      const before = viewOf(pid);
      const result = await restore(pid, dump.image);
      expect(result).toMatchObject({
        pid,
        pages_dropped: 0,
        mappings_mapped: 0,
        mappings_unmapped: 0,
        mappings_protected: 0,
        warnings: WARNINGS,
      });
      expect(result.frozen_time).toBeGreaterThan(0);
      expect(result.total_time).toBeGreaterThan(result.frozen_time);
      await assertUntouched(pid, before);
      await expectRestored(pid, dump);
      await target.check();
    }));

  for (const threads of ['0', '5']) {
    for (const command of ['change', 'change shrink']) {
      it(`memory after "${command}", with ${threads} more threads, again and again`, () =>
        withTarget([threads], async (target) => {
          const { pid } = target;
          await using dump = await dumpOf(pid);
          const before = viewOf(pid);
          for (let round = 0; round < 2; round++) {
            await target.command(command);
            const result = await restore(pid, dump.image);
            expect(result.warnings).toEqual(WARNINGS);
            for (const count of ['dropped', 'written'] as const) {
              expect(result[`pages_${count}`]).toBeGreaterThan(0);
            }
            for (const count of ['mapped', 'unmapped', 'protected'] as const) {
              expect(result[`mappings_${count}`]).toBeGreaterThan(0);
            }
            await expectRestored(pid, dump);
            await assertUntouched(pid, before);
            await target.check();
          }
        }));
    }
  }

  for (const seed of SEEDS) {
    it(`memory that a random schedule left, after others (seed ${seed})`, () =>
      withTarget(['1'], async (target) => {
        const { pid } = target;
        await target.command(`mix ${seed}`);
        await using dump = await dumpOf(pid);
        for (const next of [1, 2]) {
          await target.command(`mix ${seed + next}`);
          await restore(pid, dump.image);
          await expectRestored(pid, dump);
        }
        await target.check();
      }));
  }

  it('memory of every kind', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('mappings', [dir.path]);
    const { pid } = target;
    for (let round = 0; round < 2; round++) {
      await using dump = await dumpOf(pid);
      const result = await restore(pid, dump.image, true);
      expect(result).toMatchObject({ mappings_mapped: 0, warnings: WARNINGS });
      await whileStopped(pid, (memory) =>
        memory.compare(dump.image, { restored: true, droppable: [{ start: 0n, end: 1n << 47n }] }),
      );
      await target.check();
    }
  });

  it('memory of a process that waits elsewhere by now, and where it waited', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.command('change');
      await target.command('sleep');
      await restore(target.pid, dump.image);
      await target.check();
    }));

  it('memory of a process that stands in SIGSTOP, and leaves it so', () =>
    withTarget([], async (target) => {
      const { pid } = target;
      await using dump = await dumpOf(pid);
      await target.command('change');
      await whileStopped(pid, async () => {
        await restore(pid, dump.image);
        await waitFor(`process ${pid} is stopped`, () => isStopped(pid));
      });
      await expectRestored(pid, dump);
      await target.check();
    }));

  it('memory at the command line', () =>
    withTarget([], async (target, dir) => {
      const { pid } = target;
      const image = dir.join('image');
      expect(await sluice('dump', String(pid), '--out', image)).toMatchObject({ status: 0 });
      await target.command('change');
      const plain = await sluice('restore', image, '--into', String(pid), '--force');
      expect(plain).toMatchObject({ status: 0, stderr: '' });
      expect(plain.stdout.toString()).toMatch(
        new RegExp(`^Restored process ${pid} from .*\\n\\n  frozen `),
      );
      await target.check();
      await target.command('change');
      const json = await sluice('restore', image, '--into', String(pid), '--force', '--json');
      expect(JSON.parse(json.stdout.toString())).toMatchObject({ pid, warnings: WARNINGS });
      await target.check();
    }));
});

describe('a restore of a program that nobody here wrote', () => {
  const programs = [
    {
      title: 'python3',
      command: 'python3',
      args: [
        '-u',
        '-c',
        'import os, select\nlines = []\nwhile select.select([0], [], [])[0]:\n  line = os.read(0, 100)\n  if not line: break\n  lines.append(line * 1000); print(len(lines))',
      ],
    },
    {
      title: 'node',
      command: process.execPath,
      args: [
        '-e',
        'const l = []; require("readline").createInterface(process.stdin).on("line", (line) => { l.push(line.repeat(1000)); console.log(l.length); })',
      ],
    },
  ];
  for (const { title, command, args } of programs) {
    it(`lets it go on from where it was: ${title}`, async () => {
      const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
      try {
        const pid = child.pid ?? 0;
        const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        const ask = async () => {
          child.stdin.write('line\n');
          const answer = Number((await within('an answer', answers.next())).value);
          await settled(pid);
          return answer;
        };
        for (let count = 1; count <= 20; count++) expect(await ask()).toBe(count);
        await using dump = await dumpOf(pid);
        for (let round = 0; round < 3; round++) {
          for (let count = 21; count <= 40; count++) expect(await ask()).toBe(count);
          await restore(pid, dump.image);
        }
        expect(await ask()).toBe(21);
      } finally {
        child.stdin.end();
        await once(child, 'exit');
      }
    });
  }
});

describe('a restore is refused, and leaves alone', () => {
  async function expectRefused(
    target: TestTarget,
    image: Image | string,
    code: SluiceErrorCode,
    message: RegExp,
  ): Promise<void> {
    const { pid } = target;
    const before = viewOf(pid);
    await using now = await dumpOf(pid);
    const error = await failureOf(restoreInto(pid, image, { force: true }));
    expect({ code: error.code, message: error.message, thawed: error.thawed }).toEqual({
      code,
      message: expect.stringMatching(message),
      thawed: true,
    });
    await assertUntouched(pid, before);
    await expectRestored(pid, now);
  }

  it('another process', () =>
    withTarget([], async (target) => {
      await using other = await startTarget('churn', ['still']);
      await using dump = await dumpOf(other.pid);
      await expectRefused(
        target,
        dump.image,
        'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
        new RegExp(`holds process ${other.pid}, not ${target.pid}`),
      );
    }));

  it('a process that was started at another time', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      for (const process of dump.image.processes) process.startTimeTicks += 1n;
      await expectRefused(target, dump.image, 'ERR_SLUICE_RESTORE_MISMATCH', /was started/);
    }));

  it('a process of which the image has only the memory', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      for (const process of dump.image.processes) process.state = null;
      await expectRefused(target, dump.image, 'ERR_SLUICE_RESTORE_MISMATCH', /only the memory/);
    }));

  it('a process that runs another program', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      for (const process of dump.image.processes) process.executable = '/bin/true';
      await expectRefused(target, dump.image, 'ERR_SLUICE_RESTORE_MISMATCH', /ran \/bin\/true/);
    }));

  it('a process that has another thread', () =>
    withTarget(['1'], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.command('thread');
      await waitFor('it has started', () =>
        threadsOf(target.pid).every((tid) =>
          /^0+$/.test(readStatus(target.pid, tid).get('SigBlk') ?? ''),
        ),
      );
      await expectRefused(
        target,
        dump.image,
        'ERR_SLUICE_RESTORE_MISMATCH',
        /thread \d+ \(restorable\) is new/,
      );
    }));

  it('a process that lacks a thread', () =>
    withTarget(['1'], async (target) => {
      await using dump = await dumpOf(target.pid);
      for (const { threads } of dump.image.processes) {
        threads.push({ ...(threads[0] as (typeof threads)[0]), tid: 4_194_303 });
      }
      await expectRefused(
        target,
        dump.image,
        'ERR_SLUICE_RESTORE_MISMATCH',
        /thread 4194303 \(restorable\) is gone/,
      );
    }));

  for (const [name, path] of [
    ['shared', '/dev/zero \\(deleted\\)'],
    ['memfd', '/memfd:restorable \\(deleted\\)'],
    ['deleted', '/.*/deleted \\(deleted\\)'],
  ] as const) {
    it(`a process without a mapping that cannot be made anew: ${name}`, () =>
      withTarget([], async (target) => {
        await using dump = await dumpOf(target.pid);
        await target.command(`drop ${name}`);
        await expectRefused(
          target,
          dump.image,
          'ERR_SLUICE_RESTORE_MISMATCH',
          new RegExp(`^[0-9a-f]+-[0-9a-f]+ ${path} is not mapped any more`),
        );
      }));
  }

  it('a process whose vdso was elsewhere', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      for (const { vmas } of dump.image.processes) {
        for (const vma of vmas.filter(({ path }) => path === '[vdso]')) vma.end -= 4096n;
      }
      await expectRefused(target, dump.image, 'ERR_SLUICE_RESTORE_MISMATCH', /\[vdso\]/);
    }));

  it('a process with a mapped file that was changed', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.command('replace');
      await expectRefused(
        target,
        dump.image,
        'ERR_SLUICE_FILE_CHANGED',
        /private is not as it was/,
      );
    }));

  it('a process with a file that is to be mapped again and was changed', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.command('drop private');
      await target.command('drop remapped');
      await target.command('replace');
      await expectRefused(target, dump.image, 'ERR_SLUICE_FILE_CHANGED', /cannot be mapped from/);
    }));

  it('any process, if the image is damaged', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid, { rounds: 0 });
      const { dir } = dump.image;
      const shard = readdirSync(dir).find((file) => file.startsWith('shard-')) ?? '';
      const fd = openSync(`${dir}/${shard}`, 'r+');
      writeSync(fd, 'damage', 4096 * 3 + 7);
      closeSync(fd);
      await using damaged = await openImage(dir);
      await expectRefused(target, damaged, 'ERR_SLUICE_IMAGE_CORRUPT', /checksum/);
    }));

  it('a process that has ended', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.stop();
      expect(await failureOf(restoreInto(target.pid, dump.image, { force: true }))).toMatchObject({
        code: 'ERR_SLUICE_NO_SUCH_PROCESS',
      });
    }));

  it('any process, if the restore was aborted before', () =>
    withTarget([], async (target) => {
      await using dump = await dumpOf(target.pid);
      await target.command('change');
      const before = viewOf(target.pid);
      const aborted = restoreInto(target.pid, dump.image, {
        force: true,
        signal: AbortSignal.abort('enough'),
      });
      await expect(aborted).rejects.toBeInstanceOf(AbortError);
      await assertUntouched(target.pid, before);
    }));

  it('any process, for options that are none', async () => {
    const call = restoreInto(1, 'image', { lanes: 1 } as never);
    expect(await failureOf(call)).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    expect(await failureOf(restoreInto(0, 'image'))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    for (const image of [undefined, null, 7, {}, '']) {
      const failure = await failureOf(restoreInto(process.ppid, image as never));
      expect(failure.code).toBe(image === '' ? 'ERR_SLUICE_ANCESTOR' : 'ERR_SLUICE_OPTION');
    }
  });
});

describe('a restore that is cut short', () => {
  for (const delayMs of [0, 20, 40, 60, 80, 120]) {
    it(`by the end of its process says so (after ${delayMs} ms)`, () =>
      withTarget(['2'], async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command('change');
        const restoring = restoreInto(pid, dump.image, { force: true }).then(
          () => undefined,
          (error: SluiceError) => error.code,
        );
        await sleep(delayMs);
        await target.kill();
        expect([undefined, 'ERR_SLUICE_TARGET_EXITED', 'ERR_SLUICE_NO_SUCH_PROCESS']).toContain(
          await within('the restore', restoring),
        );
      }));

    it(`by SIGKILL lets the process go, and can be made again (after ${delayMs + 150} ms)`, () =>
      withTarget(['2'], async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command('change');
        const before = viewOf(pid);
        const command = startSluice(['restore', dump.image.dir, '--into', `${pid}`, '--force']);
        await sleep(delayMs + 150);
        command.kill('SIGKILL');
        if (command.exitCode === null) await once(command, 'exit');
        await waitFor('nobody traces it', () => viewOf(pid).state === before.state);
        await expectFree(pid);
        await restore(pid, dump.image);
        await expectRestored(pid, dump);
        await assertUntouched(pid, { ...viewOf(pid), children: before.children });
        await target.check();
      }));
  }
});

describe('a restore that fails', () => {
  const harmless: { title: string; faults: FaultSpec[]; code: SluiceErrorCode }[] = [
    {
      title: 'no helper',
      faults: [{ call: 'remote:clone', errno: 'EAGAIN' }],
      code: 'ERR_SLUICE_INJECTION',
    },
    {
      title: 'no right to write to its memory',
      faults: [{ call: 'pwrite64', errno: 'EIO' }],
      code: 'ERR_SLUICE_PERMISSION',
    },
    {
      title: 'no first mapping (the one before is that of the helper)',
      faults: [{ call: 'remote:mmap', errno: 'ENOMEM', skip: 1, times: 1 }],
      code: 'ERR_SLUICE_SYSTEM',
    },
    {
      title: 'no second mapping',
      faults: [{ call: 'remote:mmap', errno: 'ENOMEM', skip: 2, times: 1 }],
      code: 'ERR_SLUICE_SYSTEM',
    },
  ];
  for (const { title, faults, code } of harmless) {
    it(`at its beginning leaves the process alone: ${title}`, () =>
      withTarget(['1'], async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command('change shrink');
        const before = viewOf(pid);
        const error = await withFaults(faults, () =>
          failureOf(restoreInto(pid, dump.image, { force: true })),
        );
        expect(error).toMatchObject({ code, thawed: true });
        await assertUntouched(pid, before);
        await restore(pid, dump.image);
        await expectRestored(pid, dump);
        await target.check();
      }));
  }

  const harmful: { title: string; faults: FaultSpec[] }[] = [
    { title: 'a munmap', faults: [{ call: 'remote:munmap', errno: 'ENOMEM', times: 1 }] },
    { title: 'an mprotect', faults: [{ call: 'remote:mprotect', errno: 'ENOMEM', times: 1 }] },
    { title: 'the break', faults: [{ call: 'remote:brk', errno: 'ENOMEM', skip: 2, times: 1 }] },
    { title: 'a write', faults: [{ call: 'pwrite64', errno: 'EIO', skip: 20 }] },
  ];
  for (const { title, faults } of harmful) {
    it(`on its way says so, and can be made again: ${title}`, () =>
      withTarget(['1'], async (target) => {
        const { pid } = target;
        await using dump = await dumpOf(pid);
        await target.command('change');
        const error = await withFaults(faults, () =>
          failureOf(restoreInto(pid, dump.image, { force: true })),
        );
        expect(error).toMatchObject({
          code: 'ERR_SLUICE_RESTORE_INCOMPLETE',
          message: expect.stringContaining('half restored'),
          thawed: true,
        });
        expect(viewOf(pid)).toMatchObject({ state: 'runs', children: [] });
        await restore(pid, dump.image);
        await expectRestored(pid, dump);
        await target.check();
      }));
  }

  it('to drop pages writes over them', () =>
    withTarget([], async (target) => {
      const { pid } = target;
      await using dump = await dumpOf(pid);
      await target.command('change');
      await withFaults([{ call: 'remote:madvise', errno: 'EINVAL', skip: 1 }], () =>
        restore(pid, dump.image),
      );
      await expectRestored(pid, dump);
      await target.check();
    }));
});
