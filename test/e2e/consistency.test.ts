/**
 * Snapshots of a process that goes on are of one moment, whichever way they are made: by copying under
 * freeze, or by a copy-on-write twin.
 *
 * SLUICE_SNAPSHOTS sets how many are taken of each kind.
 */
import type { Image } from '@sluice/core';
import { dumpProcess } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { ControlGroup, groupsOf } from '../harness/cgroup.js';
import { dumpOf, failureOf, type Options } from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { childrenOf } from '../harness/procfs.js';
import { type Ready, startTarget, type TestTarget } from '../harness/target.js';
import { bestTracker } from '../harness/tracker.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const SNAPSHOTS = Number(process.env.SLUICE_SNAPSHOTS ?? 3);
const LIMIT_MS = 120_000 + SNAPSHOTS * 10_000;
const PAGE_BYTES = 4096;
/** No user that anything else runs as. */
const UID = 54_321;
const TRACKER = bestTracker();
const AT_LIMIT = {
  consistency: 'copy',
  consistency_reason: expect.stringContaining('clone: Resource temporarily unavailable'),
  warnings: [expect.stringContaining('without a twin')],
};

interface InvariantsInfo extends Ready {
  pair: [string, string];
  total: number;
  segments: { start: string; pages: number }[];
}

type Target = TestTarget<InvariantsInfo>;

/** The first word of each page. */
async function wordsAt(image: Image, pid: number, start: string, pages: number): Promise<bigint[]> {
  const bytes = Buffer.from(await image.read(pid, BigInt(start), pages * PAGE_BYTES));
  return Array.from({ length: pages }, (_, page) => bytes.readBigUInt64LE(page * PAGE_BYTES));
}

async function expectOneMoment(image: Image, { pid, info }: Target): Promise<void> {
  const words: bigint[] = [];
  for (const { start, pages } of info.segments) {
    words.push(...(await wordsAt(image, pid, start, pages)));
  }
  const [newest = 0n] = words;
  const turn = words.findIndex((word) => word !== newest);
  const older = turn < 0 ? [] : words.slice(turn);
  expect(newest).toBeGreaterThan(0n);
  expect(older.filter((word) => word !== newest - 1n)).toEqual([]);
  const [[from = 0n] = [], [to = 0n] = []] = await Promise.all(
    info.pair.map((address) => wordsAt(image, pid, address, 1)),
  );
  expect([info.total, info.total - 1]).toContain(Number(from + to));
}

async function expectSnapshot(target: Target, options: Options, result: object): Promise<void> {
  await using dump = await dumpOf(target.pid, options);
  expect(dump.result).toMatchObject(result);
  expect(dump.result.consistency_reason).not.toBe('');
  await expectOneMoment(dump.image, target);
}

async function expectNothingLeft(target: Target, before: ReturnType<typeof viewOf>): Promise<void> {
  await target.check();
  await assertUntouched(target.pid, before, { busy: true });
  expect(childrenOf(target.pid)).toEqual([]);
}

describe('a snapshot is of one moment', () => {
  for (const consistency of ['copy', 'twin', 'auto'] as const) {
    for (const rounds of [0, 'auto'] as const) {
      it(`with ${consistency}, rounds ${rounds}`, { timeout: LIMIT_MS }, async () => {
        await using target = await startTarget<InvariantsInfo>('invariants');
        const before = viewOf(target.pid);
        const result = consistency === 'auto' ? {} : { consistency, warnings: [] };
        for (let taken = 0; taken < SNAPSHOTS; taken++) {
          const capture = taken % 2 === 0 ? 'auto' : 'read';
          await expectSnapshot(target, { consistency, rounds, capture, lanes: 2 }, result);
        }
        await expectNothingLeft(target, before);
      });
    }
  }
});

describe('a twin', () => {
  const TWIN: Options = { consistency: 'twin', rounds: 1, lanes: 1 };
  const made = { consistency: 'twin', consistency_reason: 'as asked for', warnings: [] };

  it.each([
    ['with locked memory', 'locked'],
    ['with huge pages', 'huge'],
    ['with a seccomp filter', 'filtered'],
  ])('of a process %s', async (_title, flag) => {
    await using target = await startTarget<InvariantsInfo>('invariants', [flag]);
    const before = viewOf(target.pid);
    // Its filter would kill it for the calls of an attach, if the dumper died in one.
    const force = flag === 'filtered';
    await expectSnapshot(target, { ...TWIN, force }, made);
    await expectSnapshot(target, { ...TWIN, rounds: 0, force }, made);
    await expectNothingLeft(target, before);
  });

  it.skipIf(process.getuid?.() !== 0)('is not made at a limit on processes', async () => {
    // Three threads of its own, and the helper.
    await using target = await startTarget<InvariantsInfo>('invariants', ['nproc=4'], { uid: UID });
    const before = viewOf(target.pid);
    await expectSnapshot(target, TWIN, AT_LIMIT);
    await expectNothingLeft(target, before);
  });

  it.skipIf(process.getuid?.() !== 0)(
    'is not made where a fork would have to be told',
    async () => {
      await using target = await startTarget<InvariantsInfo>('invariants', ['uffd']);
      const before = viewOf(target.pid);
      for (const rounds of [0, 1]) {
        await expectSnapshot(
          target,
          { ...TWIN, rounds },
          { consistency: 'copy', consistency_reason: expect.stringContaining('userfaultfd') },
        );
      }
      await expectNothingLeft(target, before);
    },
  );

  it.skipIf(groupsOf('pids') === undefined)(
    'is not made at a limit of its control group',
    async () => {
      await using target = await startTarget<InvariantsInfo>('invariants');
      await using group = new ControlGroup('pids');
      group.add(target.pid);
      group.set('pids.max', 4);
      const before = viewOf(target.pid);
      await expectSnapshot(target, TWIN, AT_LIMIT);
      await expectNothingLeft(target, before);
    },
  );

  it.each<[string, FaultSpec, Options]>([
    ['the process has too many', { call: 'remote:clone', errno: 'EAGAIN', skip: 1 }, {}],
    ['memory is short', { call: 'remote:clone', errno: 'ENOMEM', skip: 1 }, {}],
    [
      'there is no helper',
      { call: 'remote:clone', errno: 'EPERM' },
      { tracker: 'none', rounds: 0 },
    ],
  ])('gives way to copying where %s', async (_title, fault, options) => {
    await using target = await startTarget<InvariantsInfo>('invariants');
    const before = viewOf(target.pid);
    await withFaults([fault], () =>
      expectSnapshot(
        target,
        { ...TWIN, ...options },
        { consistency: 'copy', warnings: [expect.stringContaining('without a twin')] },
      ),
    );
    await expectNothingLeft(target, before);
  });

  it('is what auto takes for much at once, and not for little', async () => {
    await using target = await startTarget('writer', ['64', '1']);
    // However busy the machine is, little is left for the freeze then.
    target.signal('SIGSTOP');
    await using whole = await dumpOf(target.pid, { rounds: 0 });
    await using last = await dumpOf(target.pid);
    expect(whole.result).toMatchObject({
      consistency: 'twin',
      consistency_reason: expect.stringMatching(/^about [\d.]+ ms to copy \d+ pages/),
    });
    expect(last.result.consistency).toBe(TRACKER === 'none' ? 'twin' : 'copy');
    target.signal('SIGCONT');
    await target.check();
  });

  it('is nothing for a process that is to stay stopped', async () => {
    await using target = await startTarget<InvariantsInfo>('invariants');
    const error = await failureOf(
      dumpProcess(target.pid, { dir: 'none', after: 'stop', consistency: 'twin' }),
    );
    expect(error.code).toBe('ERR_SLUICE_OPTION');
    await using dump = await dumpOf(target.pid, { after: 'stop' });
    expect(dump.result.consistency).toBe('stop');
    await expectOneMoment(dump.image, target);
    await dump.result.held?.resume();
    await target.check();
  });
});
