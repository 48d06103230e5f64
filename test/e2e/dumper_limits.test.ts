/**
 * A dumper that runs out of something in the middle: descriptors, memory, threads, file size, room on the disk.
 * It fails with a typed error, or does not even start; what it leaves is never taken for an image, and the
 * process runs on.
 */
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { openImage } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failureOf } from '../harness/dump.js';
import { Dumper, type Ending, type Wrapper } from '../harness/dumper.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess } from '../harness/patient.js';
import { readStatus, stateOf, threadsOf } from '../harness/procfs.js';
import { type StartOptions, startTarget, type TestTarget } from '../harness/target.js';
import { mountRefusal, SmallDisk, TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const MANIFEST = 'manifest.msgpack';
/** Nobody else's, so that nobody else counts for its limit. */
const USER = 64_321;
const noMount = await mountRefusal();

/** Dumps with each of these limits, which `expected` may say more about. */
async function dumpLimited(
  wrappers: Wrapper[],
  expected: (ending: Ending) => void = () => undefined,
  { uid }: StartOptions = {},
): Promise<void> {
  await using target = await startTarget('churn', ['exit'], uid === undefined ? {} : { uid });
  const before = viewOf(target.pid);
  for (const wrapper of wrappers) {
    await using dir = new TempDir().open();
    const options = { dir: dir.join('image'), lanes: 2, io: 'buffered' };
    await using dumper = new Dumper({ work: 'dump', pid: target.pid, options }, wrapper);
    const ending = await dumper.ended();
    await expectSound(target, dir, ending);
    expected(ending);
  }
  await using dump = await dumpOf(target.pid);
  await dump.image.verify();
  await assertUntouched(target.pid, before);
}

async function expectSound(target: TestTarget, dir: TempDir, ending: Ending): Promise<void> {
  const { outcome } = ending;
  const text = JSON.stringify(ending);
  if (outcome === undefined) {
    // Without its memory, descriptors or threads Node does not start, or dies; its errors are not ours.
    expect(ending.status, text).not.toBe(0);
  } else if (outcome.code === null) {
    await using image = await openImage(dir.join('image'));
    await image.verify();
  } else {
    expect(outcome.code, text).toMatch(/^ERR_SLUICE_/);
    expect(outcome.code, text).not.toBe('ERR_SLUICE_CANCELLED');
    expect(outcome.thawed, text).toBe(true);
    expect(readdirSync(dir.path), text).toEqual([]);
  }
  if (outcome?.code !== null) expect(existsSync(dir.join('image', MANIFEST)), text).toBe(false);
  await waitFor('nobody holds the target', () =>
    threadsOf(target.pid).every(
      (tid) =>
        readStatus(target.pid, tid).get('TracerPid') === '0' && stateOf(target.pid, tid) !== 't',
    ),
  );
  await target.check();
}

function missing(...programs: string[]): string | undefined {
  const found = (name: string) => spawnSync(name, ['--version']).error === undefined;
  const lacking = programs.filter((name) => !found(name));
  return lacking.length === 0 ? undefined : `there is no ${lacking.join(', ')}`;
}

describe('a dumper that has too few', () => {
  const noPrlimit = missing('prlimit', 'setpriv');

  it('descriptors', async (ctx) => {
    if (noPrlimit !== undefined) ctx.skip(noPrlimit);
    const codes = new Set<string | null | undefined>();
    await dumpLimited(
      [24, 40, 56, 72, 512].map((most) => ['prlimit', `--nofile=${most}:${most}`]),
      ({ outcome }) => codes.add(outcome?.code),
    );
    // Some are enough, and some are not.
    expect(codes).toContain(null);
    expect(codes.size).toBeGreaterThan(1);
  });

  it('bytes of memory', async (ctx) => {
    if (noPrlimit !== undefined) ctx.skip(noPrlimit);
    const wrappers = [1.2, 1.6, 4].map((gib) => ['prlimit', `--as=${Math.round(gib * 2 ** 30)}`]);
    await dumpLimited(wrappers);
  });

  it('threads', async (ctx) => {
    if (noPrlimit !== undefined) ctx.skip(noPrlimit);
    if (process.getuid?.() !== 0) ctx.skip('only root can become another user');
    const user = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups'];
    const wrappers = [12, 15, 18, 24].map((most) => [...user, 'prlimit', `--nproc=${most}`]);
    const codes = new Set<string | null | undefined>();
    await dumpLimited(wrappers, ({ outcome }) => codes.add(outcome?.code), { uid: USER });
    expect([...codes].filter((code) => code !== null)).not.toEqual([]);
  });

  it('bytes that a file may have', async (ctx) => {
    if (noPrlimit !== undefined) ctx.skip(noPrlimit);
    const wrappers = [4096, 4 << 20].map((most) => ['prlimit', `--fsize=${most}`]);
    await dumpLimited(wrappers, (ending) => {
      // By default there is a signal that ends a process before its call can fail.
      expect(ending).toMatchObject({ status: 0, outcome: { code: 'ERR_SLUICE_IO' } });
    });
  });

  it('pages in its control group', async (ctx) => {
    const group = `/sys/fs/cgroup/memory/sluice-test-${process.pid}`;
    try {
      accessSync('/sys/fs/cgroup/memory/memory.limit_in_bytes', constants.W_OK);
      mkdirSync(group);
    } catch (error) {
      ctx.skip(`no memory control group can be made: ${(error as Error).message}`);
    }
    try {
      for (const mebibytes of [32, 64]) {
        writeFileSync(`${group}/memory.limit_in_bytes`, String(mebibytes << 20));
        const enter = ['sh', '-c', `echo $$ > ${group}/cgroup.procs && exec "$@"`, 'sh'];
        await dumpLimited([enter]);
      }
    } finally {
      await waitFor('the group is empty', () => removed(group));
    }
  });
});

function removed(group: string): boolean {
  try {
    rmdirSync(group);
    return true;
  } catch {
    return false;
  }
}

it('a disk that gets full at any byte is a full disk', async (ctx) => {
  if (noMount !== undefined) ctx.skip(noMount);
  await using target = await startTarget('churn', ['still']);
  const { pid } = target;
  const before = viewOf(pid);
  const options = { rounds: 1, lanes: 1, drains: 2, io: 'buffered' } as const;
  await using plain = await dumpOf(pid, options);
  const shards = plain.result.bytes_written;
  const codes: (string | null)[] = [];
  // From inside the shards on over page tables and manifests to enough; directories take room, too.
  for (const more of [-65_536, 0, 8192, 24_576, 49_152, 16 << 20]) {
    await using disk = new SmallDisk(shards + more);
    const image = disk.join('image');
    try {
      await dumpProcess(pid, { ...options, dir: image });
      await using opened = await openImage(image);
      await opened.verify();
      codes.push(null);
    } catch (error) {
      const failure = await failureOf(Promise.reject(error));
      expect(failure.thawed).toBe(true);
      expect(readdirSync(disk.path)).toEqual([]);
      codes.push(failure.code);
    }
    await assertUntouched(pid, before);
  }
  expect(codes.at(-1)).toBe(null);
  expect(new Set(codes)).toEqual(new Set(['ERR_SLUICE_DISK_FULL', null]));
  await target.check();
});
