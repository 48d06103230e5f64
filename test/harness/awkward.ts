/** What has to hold of every target, however awkward: it is dumped or refused well, and left alone. */
import type { SluiceErrorCode } from '@sluice/core';
import { expect } from 'vitest';
import { type Dump, dumpOf, failedDumpOf, failureOf, type Options } from './dump.js';
import { type CompareOptions, whileHeld } from './oracle.js';
import { coreProcess, restoreInto } from './patient.js';
import { type Ready, startTarget, type TestTarget } from './target.js';
import { TempDir } from './temp.js';
import { assertUntouched, type UntouchedOptions, viewOf } from './untouched.js';
import { within } from './wait.js';

/** The ways in which the awkward differs: with and without a helper, while it runs, and as a twin. */
export const WAYS = {
  vmsplice: { capture: 'vmsplice', rounds: 0, consistency: 'copy', lanes: 2 },
  read: { capture: 'read', rounds: 0, tracker: 'none', consistency: 'copy' },
  rounds: { rounds: 3, lanes: 2 },
  twin: { consistency: 'twin', rounds: 1, lanes: 1 },
} as const satisfies Record<string, Options>;

/** What results must match. */
interface Outcomes {
  /** Or the code of the error. */
  vmsplice: object | SluiceErrorCode;
  read: object;
  rounds: object;
  twin: object;
}

const USUAL: Outcomes = {
  vmsplice: { capture: 'vmsplice', warnings: [] },
  read: { capture: 'read', warnings: [] },
  rounds: { capture: 'vmsplice', warnings: [] },
  twin: { capture: 'vmsplice', consistency: 'twin', warnings: [] },
};

export interface Expected extends Partial<Outcomes> {
  /** Of a restore; nothing if it succeeds. */
  restore?: SluiceErrorCode;
}

/** Where no helper can be started, pages are read from outside, and a restore is impossible. */
export function withoutHelper(reason: RegExp): Expected {
  const read = { capture: 'read', capture_reason: expect.stringMatching(reason) };
  return {
    vmsplice: 'ERR_SLUICE_CAPTURE_UNAVAILABLE',
    rounds: { ...read, warnings: [] },
    twin: { ...read, consistency: 'copy', warnings: [expect.stringContaining('without a twin')] },
    restore: 'ERR_SLUICE_INJECTION',
  };
}

export interface AwkwardOptions extends UntouchedOptions {
  compare?: CompareOptions;
  /** Of dumps; restores need it anyway. */
  force?: boolean;
}

export interface AwkwardReady extends Ready {
  /** What this machine has not, if the target could not be set up. */
  absent?: string;
}

/** Starts test/targets/awkward.c in some conditions. */
export function startAwkward(...conditions: string[]) {
  return startTarget<AwkwardReady>('awkward', conditions);
}

/**
 * Dumps a target in every way, writes a core of it and takes it back to an image, or is refused as
 * expected. Each time it must go on as it was; and where it can be held, the image must be its memory.
 */
export async function expectLeftAlone(
  target: TestTarget,
  expected: Expected = {},
  options: AwkwardOptions = {},
): Promise<void> {
  const outcomes = { ...USUAL, ...expected };
  const leftAlone = async (work: () => Promise<unknown>) => {
    const before = viewOf(target.pid);
    await work();
    await assertUntouched(target.pid, before, options);
    await target.check();
  };
  await target.check();
  for (const way of ['vmsplice', 'twin', 'read'] as const) {
    await leftAlone(() =>
      expectOutcome(target, { ...WAYS[way], force: options.force }, outcomes[way]),
    );
  }
  await leftAlone(() => expectMemory(target, outcomes.rounds, options));
  await leftAlone(() => expectCore(target));

  await using dump = await dumpOf(target.pid, { rounds: 0 });
  const turn = async () => Number((await target.command('turn')).turn);
  const then = await turn();
  await target.command('write');
  await leftAlone(() => expectRestore(target, dump, expected.restore));
  expect(await turn()).toBe(expected.restore === undefined ? then : then + 1);
}

export async function expectOutcome(
  target: TestTarget,
  way: Options,
  outcome: object | SluiceErrorCode,
): Promise<void> {
  if (typeof outcome === 'string') {
    const error = await failedDumpOf(target.pid, way);
    expect(error).toMatchObject({ code: outcome, pid: target.pid });
    expect(error.thawed).not.toBe(false);
  } else {
    await using dump = await dumpOf(target.pid, way);
    expect(dump.result).toMatchObject(outcome);
    await dump.image.verify();
  }
}

/** The image of a target that was written to between rounds, and then held, is its memory. */
async function expectMemory(
  target: TestTarget,
  outcome: object,
  { compare, force }: AwkwardOptions,
): Promise<void> {
  let written: Promise<unknown> | undefined;
  await using dump = await dumpOf(target.pid, { ...WAYS.rounds, force, after: 'stop' }, () => {
    written ??= target.command('write');
  });
  try {
    expect(dump.result).toMatchObject(outcome);
    await whileHeld(target.pid, async (memory) => {
      const { bytes } = await memory.compare(dump.image, compare);
      expect(bytes).toBeGreaterThan(100_000n);
    });
  } finally {
    await dump.result.held?.resume();
  }
  await written;
}

async function expectCore({ pid }: TestTarget): Promise<void> {
  await using dir = new TempDir();
  const core = await within('a core', coreProcess(pid, { out: dir.join('core') }));
  expect(core.pid).toBe(pid);
}

async function expectRestore(
  { pid }: TestTarget,
  { image }: Dump,
  code: SluiceErrorCode | undefined,
): Promise<void> {
  const restore = within('a restore', restoreInto(pid, image, { force: true }));
  if (code === undefined) await restore;
  else expect(await failureOf(restore)).toMatchObject({ code, pid, thawed: true });
}
