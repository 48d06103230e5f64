/** What a dumper that was killed has left in a process, and how it is removed. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cleanTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { diesAt, expectFree } from '../harness/death.js';
import { failureOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess } from '../harness/patient.js';
import { childrenOf, stateOf } from '../harness/procfs.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor } from '../harness/wait.js';

leakCheck();

const CLI = fileURLToPath(new URL('../../packages/cli/bin/sluice.js', import.meta.url));

function doctor(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, 'doctor', ...args], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

/** Lets a dumper die that has one helper in a process. */
async function leaveSomething(pid: number): Promise<void> {
  await using dir = new TempDir();
  const work = { work: 'dump', pid, dir: dir.join('image'), options: { lanes: 1 } } as const;
  expect(await diesAt(work, { step: 'helper-ready', times: 1 })).toBe(true);
  await expectFree(pid);
  await waitFor('the helper is dead', () =>
    childrenOf(pid).every((child) => stateOf(child) === 'Z'),
  );
}

describe('what a dumper left', () => {
  it('is removed by cleanTarget, once', async () => {
    await using target = await startTarget('churn', ['still']);
    const { pid } = target;
    const before = viewOf(pid);
    await leaveSomething(pid);
    expect(viewOf(pid)).not.toEqual(before);
    expect(await cleanTarget(pid)).toEqual({ pid, mappings: 1, zombies: 1 });
    await assertUntouched(pid, before);
    expect(await cleanTarget(pid)).toEqual({ pid, mappings: 0, zombies: 0 });
    await target.check();
  });

  it('is removed by the command, which says so', async () => {
    await using target = await startTarget('churn', ['still']);
    const { pid } = target;
    const before = viewOf(pid);
    await leaveSomething(pid);
    const first = doctor(String(pid), '--clean');
    expect(first).toMatchObject({ status: 0, stderr: '' });
    expect(first.stdout).toContain(
      `Removed from process ${pid}: mappings of 32 KiB: 1, zombie children: 1\n`,
    );
    await assertUntouched(pid, before);
    const second = doctor(String(pid), '--clean', '--json');
    expect(JSON.parse(second.stdout)).toMatchObject({ cleaned: { pid, mappings: 0, zombies: 0 } });
    expect(doctor(String(pid), '--clean').stdout).toContain('had nothing of a dumper left in it');
  });
});

describe('nothing is removed', () => {
  it('without a process', () => {
    const { status, stderr } = doctor('--clean');
    expect({ status, stderr }).toEqual({
      status: 2,
      stderr: expect.stringMatching(/^sluice: ERR_SLUICE_OPTION: .*--clean.* pid/),
    });
  });

  it('from one that is gone', async () => {
    const target = await startTarget('churn', ['still']);
    await target.stop();
    const { pid } = target;
    expect(await failureOf(cleanTarget(pid))).toMatchObject({
      code: 'ERR_SLUICE_NO_SUCH_PROCESS',
      pid,
    });
    expect(await failureOf(cleanTarget(0))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  it('from one that a dump holds', async () => {
    await using target = await startTarget('churn', ['still']);
    await using dir = new TempDir();
    const { pid } = target;
    const { held } = await dumpProcess(pid, { dir: dir.join('image'), after: 'stop' });
    expect(await failureOf(cleanTarget(pid))).toMatchObject({
      code: 'ERR_SLUICE_ALREADY_TRACED',
      pid,
    });
    await held?.resume();
    await target.check();
  });
});
