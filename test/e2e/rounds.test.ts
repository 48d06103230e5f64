/**
 * Random schedules: a process that does everything that one can do to its address space is dumped in
 * rounds meanwhile, and the chain of images equals its frozen memory, byte for byte.
 *
 * SLUICE_SEEDS sets how many schedules are tried, SLUICE_FIRST_SEED which one is the first: a failure
 * tells its seed, and what that one did apart from the timing is done again with it.
 */
import { type DumpOptions, openImage } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { followRounds } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { type StoppedMemory, whileHeld, whileStopped } from '../harness/oracle.js';
import { dumpProcess } from '../harness/patient.js';
import { readVmFlags } from '../harness/procfs.js';
import type { ScheduleInfo } from '../harness/schedule.js';
import { type ChildTarget, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { bestTracker } from '../harness/tracker.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { within } from '../harness/wait.js';

leakCheck();

const SCHEDULES = Number(process.env.SLUICE_SEEDS ?? 200);
const FIRST_SEED = Number(process.env.SLUICE_FIRST_SEED ?? 1);
/** The best of this kernel. */
const TRACKER = bestTracker();
/** A few, so that one that fails hides little; each has a target of its own. */
const GROUPS = 8;
const LIMIT_MS = 120_000 + SCHEDULES * 5_000;

describe('the chain equals the frozen memory', () => {
  const each = Math.ceil(SCHEDULES / GROUPS);
  for (let group = 0; group < GROUPS; group++) {
    const first = FIRST_SEED + group * each;
    const last = Math.min(first + each, FIRST_SEED + SCHEDULES) - 1;
    if (last < first) continue;
    it(`of schedules ${first} to ${last}`, { timeout: LIMIT_MS }, async () => {
      await using dir = new TempDir();
      await using target = await startTarget<ScheduleInfo>('schedule', [dir.path]);
      for (let seed = first; seed <= last; seed++) {
        try {
          await trySchedule(target, seed);
        } catch (error) {
          const cause = error instanceof Error ? error : new Error(String(error));
          cause.message = `seed ${seed} (${JSON.stringify(scheduleOf(seed))}): ${cause.message}`;
          throw cause;
        }
      }
    });
  }
});

type Mode = 'free' | 'on-command' | 'paused';

interface Schedule {
  mode: Mode;
  options: Omit<DumpOptions, 'dir'> & { rounds: number };
}

/** What a seed stands for; the target has its steps from the same seed. */
function scheduleOf(seed: number): Schedule {
  const random = randomOf(seed);
  const mode = random(10);
  return {
    mode: mode < 7 ? 'free' : mode < 9 ? 'on-command' : 'paused',
    options: {
      rounds: 2 + random(5),
      lanes: 1 + random(3),
      drains: 1 + random(2),
      capture: random(3) === 0 ? 'read' : 'vmsplice',
      tracker: random(5) === 0 ? 'none' : TRACKER,
      checksum: 'none',
      io: random(2) === 0 ? 'direct' : 'buffered',
    },
  };
}

async function trySchedule(target: ChildTarget<ScheduleInfo>, seed: number): Promise<void> {
  const { pid } = target;
  const { mode, options } = scheduleOf(seed);
  await using dir = new TempDir();
  const path = dir.join('image');
  await target.command(`run ${seed} ${mode === 'paused' ? 2000 : 300}`);
  await target.check();
  const before = viewOf(pid);
  if (mode === 'paused') {
    const result = await within('a dump', dumpProcess(pid, { ...options, dir: path }));
    expect(result.rounds.length).toBe(options.rounds + 1);
    await assertUntouched(pid, before);
    await whileStopped(pid, (memory) => compare(memory, path, target));
    await target.check();
    return;
  }

  const work = mode === 'free' ? new FreeWork(target, seed) : new CommandedWork(target, seed);
  await work.begin();
  const dump = dumpProcess(pid, { ...options, after: 'stop', dir: path });
  const following = followRounds(path, dump, (number) => work.atRound(number));
  const [result] = await within('a dump', Promise.all([dump, following]));
  expect(result.rounds.map(({ kind }) => kind)).toEqual([
    ...Array<string>(options.rounds).fill('live'),
    'final',
  ]);
  if (result.held === null) throw new Error('The target is not held');
  const difference = await whileHeld(pid, (memory) => compare(memory, path, target)).then(
    () => undefined,
    (error: unknown) => error,
  );
  await result.held.resume();
  await work.end();
  // Before the difference: a target that lost something is the worse finding.
  await target.check();
  if (difference !== undefined) throw difference;
  await expectClean(target, before);
}

/** Runs by itself all the time. */
class FreeWork {
  readonly #target: ChildTarget;
  readonly #seed: number;

  constructor(target: ChildTarget, seed: number) {
    this.#target = target;
    this.#seed = seed;
  }

  async begin(): Promise<void> {
    await this.#target.command(`free ${this.#seed}`);
  }

  atRound(_number: number): void {}

  async end(): Promise<void> {
    await this.#target.command('pause');
  }
}

/** Takes some steps as each round begins, and rests then. */
class CommandedWork {
  readonly #target: ChildTarget;
  readonly #seed: number;
  #answered: Promise<unknown> = Promise.resolve();

  constructor(target: ChildTarget, seed: number) {
    this.#target = target;
    this.#seed = seed;
  }

  async begin(): Promise<void> {}

  atRound(number: number): void {
    const steps = 1 + (this.#seed % 60) * 3;
    const run = () => this.#target.command(`run ${this.#seed + number} ${steps}`);
    this.#answered = this.#answered.then(run);
  }

  async end(): Promise<void> {
    await this.#answered;
  }
}

async function compare(
  memory: StoppedMemory,
  path: string,
  target: ChildTarget<ScheduleInfo>,
): Promise<void> {
  const image = await openImage(path);
  try {
    const { bytes } = await memory.compare(image, { droppable: lazyPages(memory, target.info) });
    expect(bytes).toBeGreaterThan(1_000_000n);
  } finally {
    await image.close();
  }
}

/** Pages that the target gave to the kernel with MADV_FREE. */
function lazyPages(memory: StoppedMemory, info: ScheduleInfo): { start: bigint; end: bigint }[] {
  const { records, recordBytes, lazyAt, slices, slicePages } = info;
  const table = memory.read(BigInt(records), slices.length * slicePages * recordBytes);
  return slices.flatMap((slice, index) =>
    Array.from({ length: slicePages }, (_, page) => page).flatMap((page) => {
      const record = (index * slicePages + page) * recordBytes;
      if (table?.[record + lazyAt] !== 1) return [];
      const start = BigInt(slice) + BigInt(page) * 4096n;
      return [{ start, end: start + 4096n }];
    }),
  );
}

/** Nothing of the dump is left; what the target did to its mappings itself is not looked at. */
async function expectClean(target: ChildTarget, before: ReturnType<typeof viewOf>): Promise<void> {
  await assertUntouched(target.pid, before, { busy: true });
  const view = viewOf(target.pid);
  expect(view.descriptors).toEqual(before.descriptors);
  expect(view.threads).toEqual(before.threads);
  const watched = [...readVmFlags(target.pid)].filter(([, flags]) => flags.has('uw'));
  expect(watched).toEqual([]);
}

/** Numbers below a limit, from a seed (mulberry32). */
function randomOf(seed: number): (limit: number) => number {
  let state = seed * 2654435761;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), 1 | state);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return Math.floor((((z ^ (z >>> 14)) >>> 0) / 4294967296) * limit);
  };
}
