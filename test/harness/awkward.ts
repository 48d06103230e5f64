/** What has to hold of every target, however awkward: it is dumped or refused well, and left alone. */
import { coreProcess, restoreInto, type SluiceErrorCode } from '@sluice/core';
import { expect } from 'vitest';
import { dumpOf, failedDumpOf, failureOf, type Options } from './dump.js';
import { type CompareOptions, whileHeld } from './oracle.js';
import { type Ready, startTarget, type TestTarget } from './target.js';
import { TempDir } from './temp.js';
import {
  assertClean,
  assertUntouched,
  type UntouchedOptions,
  type View,
  viewOf,
} from './untouched.js';
import { within } from './wait.js';

/** The ways in which the awkward differs: with and without a helper, while it runs, and as a twin. */
export const WAYS = {
  vmsplice: { capture: 'vmsplice', rounds: 0, consistency: 'copy' },
  read: { capture: 'read', rounds: 0, tracker: 'none', consistency: 'copy' },
  rounds: { rounds: 3, lanes: 2 },
  twin: { consistency: 'twin', rounds: 1, lanes: 1 },
} as const satisfies Record<string, Options>;
type Way = keyof typeof WAYS;

/** What a result must match, or the code of the error. */
type Outcome = object | SluiceErrorCode;

const USUAL: Record<Way, object> = {
  vmsplice: { capture: 'vmsplice', warnings: [] },
  read: { capture: 'read', warnings: [] },
  rounds: { capture: 'vmsplice', warnings: [] },
  twin: { capture: 'vmsplice', consistency: 'twin', warnings: [] },
};

export interface Expected extends Partial<Record<Way, Outcome>> {
  /** Of a restore; nothing if it succeeds. */
  restore?: SluiceErrorCode;
  /** Of a core; nothing if there is one. */
  core?: SluiceErrorCode;
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
  /** It changes by itself in every way: only what a dump leaves behind can be looked for. */
  restless?: boolean;
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
  await target.check();
  for (const way of Object.keys(WAYS) as Way[]) {
    const outcome = expected[way] ?? USUAL[way];
    const before = viewOf(target.pid);
    if (typeof outcome === 'string') await expectRefused(target.pid, WAYS[way], outcome);
    else await expectImage(target, WAYS[way], outcome);
    await expectUntouched(target.pid, before, options);
    await target.check();
  }
  if (typeof expected.read === 'string') return;
  await expectMemory(target, options);
  await expectCore(target, expected.core, options);
  await expectRestore(target, expected.restore, options);
}

async function expectUntouched(pid: number, before: View, options: AwkwardOptions): Promise<void> {
  if (options.restless) await assertClean(pid);
  else await assertUntouched(pid, before, options);
}

async function expectRefused(pid: number, way: Options, code: SluiceErrorCode): Promise<void> {
  const error = await failedDumpOf(pid, { freezeTimeoutMs: 500, ...way });
  expect(error).toMatchObject({ code, pid });
  expect(error.thawed).not.toBe(false);
}

async function expectImage(target: TestTarget, way: Options, outcome: object): Promise<void> {
  let written: Promise<unknown> | undefined;
  await using dump = await dumpOf(target.pid, way, () => {
    written ??= target.command('write');
  });
  expect(dump.result).toMatchObject(outcome);
  await dump.image.verify();
  await written;
}

/** The image of a target that was written to between rounds, and then held, is its memory. */
async function expectMemory(target: TestTarget, options: AwkwardOptions): Promise<void> {
  const before = viewOf(target.pid);
  let written: Promise<unknown> | undefined;
  await using dump = await dumpOf(target.pid, { rounds: 2, after: 'stop' }, () => {
    written ??= target.command('write');
  });
  const { held } = dump.result;
  try {
    await whileHeld(target.pid, async (memory) => {
      const { bytes } = await memory.compare(dump.image, options.compare);
      expect(bytes).toBeGreaterThan(100_000n);
    });
  } finally {
    await held?.resume();
  }
  await written;
  await expectUntouched(target.pid, before, options);
  await target.check();
}

async function expectCore(
  target: TestTarget,
  code: SluiceErrorCode | undefined,
  options: AwkwardOptions,
): Promise<void> {
  await using dir = new TempDir();
  const before = viewOf(target.pid);
  const core = coreProcess(target.pid, { out: dir.join('core') });
  if (code !== undefined) expect(await failureOf(core)).toMatchObject({ code });
  else expect(await within('a core', core)).toMatchObject({ pid: target.pid });
  await expectUntouched(target.pid, before, options);
  await target.check();
}

async function expectRestore(
  target: TestTarget,
  code: SluiceErrorCode | undefined,
  options: AwkwardOptions,
): Promise<void> {
  const turn = async () => (await target.command('turn')).turn;
  const then = await turn();
  await using dump = await dumpOf(target.pid);
  await target.command('write');
  const before = viewOf(target.pid);
  const restore = restoreInto(target.pid, dump.image);
  if (code !== undefined) expect(await failureOf(restore)).toMatchObject({ code });
  else await within('a restore', restore);
  await expectUntouched(target.pid, before, options);
  expect((await turn()) === then).toBe(code === undefined);
  await target.check();
}
