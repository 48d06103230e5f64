/**
 * Cores whose pages were written to their places while the process went on: they equal its memory, and a
 * core that is made of an image of the same process, whatever happened to its address space between rounds.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { type Image, openImage, writeCore } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpIntoCore } from '../../packages/core/dist/core_dump/placed.js';
import { identify } from '../../packages/core/dist/session/identify.js';
import { resolveDumpOptions } from '../../packages/core/dist/session/options.js';
import { leakCheck } from '../harness/leaks.js';
import { type StoppedMemory, whileHeld } from '../harness/oracle.js';
import { dumpProcess } from '../harness/patient.js';
import { threadsOf } from '../harness/procfs.js';
import type { ScheduleInfo } from '../harness/schedule.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { bestTracker } from '../harness/tracker.js';
import { waitFor, within } from '../harness/wait.js';
import { type Core, memoryOf, readCore } from '../unit/core_dump/elf_reader.js';

leakCheck();

const SEEDS = Number(process.env.SLUICE_SEEDS ?? 8);
const FIRST_SEED = Number(process.env.SLUICE_FIRST_SEED ?? 1);
const LIMIT_MS = 60_000 + SEEDS * 5_000;
const PAGE_BYTES = 4096;
const PIECE_BYTES = 1024 * 1024;
/** Bytes of `struct rseq` into which the kernel writes the number of the CPU. */
const RSEQ_BYTES = 32n;

const seeds = Array.from({ length: SEEDS }, (_, i) => FIRST_SEED + i);

describe('a core made in place', () => {
  it('equals one of an image, if the process changes between rounds', {
    timeout: LIMIT_MS,
  }, async () => {
    await using files = new TempDir();
    await using target = await startTarget<ScheduleInfo>('schedule', [files.path]);
    for (const seed of seeds) {
      await using dir = new TempDir();
      const { filter, dump: options } = optionsOf(seed);
      const dump = { ...options, consistency: seed % 5 === 0 ? 'twin' : 'copy' };
      const run = async (round: number) => {
        await target.command(`run ${seed * 100 + round} ${1 + (seed % 7) * 40}`);
        await rest(target.pid);
      };
      const out = dir.join('core');
      await run(0);
      const made = await make(target.pid, out, filter, dump, run);
      expect(made.dump.rounds.length).toBe(dump.rounds + 1);
      const image = dir.join('image');
      await dumpProcess(target.pid, { dir: image, rounds: 0, checksum: 'none' });
      const { left_out } = await writeCore(image, { out: dir.join('other'), filter });
      expect(readdirSync(dir.path).sort()).toEqual(['core', 'image', 'other']);
      const [core, other] = [out, dir.join('other')].map((path) => readCore(readFileSync(path)));
      await using opened = await openImage(image);
      await withSeed(seed, async () => {
        expect(made.core.left_out).toEqual(left_out);
        await expectSame(core as Core, other as Core, opened, target.info);
      });
      await target.check();
    }
  });

  it('equals the frozen memory, if the process changes all the time', {
    timeout: LIMIT_MS,
  }, async () => {
    await using files = new TempDir();
    await using target = await startTarget<ScheduleInfo>('schedule', [files.path]);
    for (const seed of seeds) {
      await using dir = new TempDir();
      const { dump } = optionsOf(seed);
      const out = dir.join('core');
      await target.command(`free ${seed}`);
      const made = await make(target.pid, out, 0x1ff, { ...dump, after: 'stop' });
      try {
        await whileHeld(target.pid, (memory) =>
          withSeed(seed, async () =>
            expectMemory(readCore(readFileSync(out)), memory, target.info),
          ),
        );
      } finally {
        await made.dump.held?.resume();
        await target.command('pause');
      }
      await target.check();
    }
  });
});

interface Schedule {
  filter: number;
  dump: { rounds: number; lanes: number; drains: number; budgetBytes: number };
}

function optionsOf(seed: number): Schedule {
  const one = <Value>(...values: Value[]) => values[seed % values.length] as Value;
  return {
    filter: one(0x33, 0x1ff, 0x3, 0x7f, 0x11),
    dump: {
      rounds: 1 + (seed % 4),
      lanes: 1 + (seed % 3),
      drains: 1 + (seed % 2),
      // Less is one slot, of one lane.
      budgetBytes: (seed % 6 === 3 ? 1 : 64) * 1024 * 1024,
      ...{ capture: one('vmsplice', 'read'), io: one('direct', 'buffered', 'auto') },
      ...{ tracker: seed % 6 === 0 ? 'none' : bestTracker() },
    },
  };
}

function make(
  pid: number,
  out: string,
  filter: number,
  dump: object,
  beforeRound?: (round: number) => Promise<void>,
) {
  const { startTimeTicks } = identify(pid);
  const resolved = resolveDumpOptions({
    ...dump,
    dir: out,
    checksum: 'none',
    freezeTimeoutMs: 30_000,
  });
  const { signal } = new AbortController();
  return within(
    'a core',
    dumpIntoCore({ pid, startTimeTicks }, { out, filter, signal }, resolved, beforeRound),
  );
}

/** Its threads answer before they have gone back to waiting, which writes to memory, too. */
async function rest(pid: number): Promise<void> {
  let last = '';
  await waitFor(`process ${pid} rests`, () => {
    const states = threadsOf(pid).map((tid) => {
      const status = readThreadStatus(pid, tid);
      return [/^State:\t(.)/m, /^voluntary_ctxt_switches:\t(\d+)/m].map((part) => {
        return part.exec(status)?.[1];
      });
    });
    const before = last;
    last = states.join();
    return last === before && states.every(([state]) => state === 'S');
  });
}

/** Empty of a thread that has ended. */
function readThreadStatus(pid: number, tid: number): string {
  try {
    return readFileSync(`/proc/${pid}/task/${tid}/status`, 'latin1');
  } catch {
    return '';
  }
}

interface Range {
  start: bigint;
  end: bigint;
}

interface Mapped extends Range {
  flags: number;
}

/** Neighbours joined: those that came while the dump watched stay apart until its end. */
function mappedOf({ loads }: Core): Mapped[] {
  const all: Mapped[] = [];
  for (const { address: start, memoryBytes, flags } of loads) {
    const end = start + memoryBytes;
    const last = all.at(-1);
    if (last?.end === start && last.flags === flags) last.end = end;
    else all.push({ start, end, flags });
  }
  return all;
}

/** @param other Of this image, which was made after the core. */
async function expectSame(
  core: Core,
  other: Core,
  image: Image,
  info: ScheduleInfo,
): Promise<void> {
  expect(mappedOf(core)).toEqual(mappedOf(other));
  const types = ({ notes }: Core) => notes.map(({ owner, type }) => [owner, type]);
  expect(types(core)).toEqual(types(other));
  const [process] = image.processes;
  if (process === undefined) throw new Error('The image holds no process');
  const changing = process.threads.flatMap(({ rseq }) =>
    rseq === null ? [] : [{ start: rseq.address, end: rseq.address + RSEQ_BYTES }],
  );
  const mask = (at: bigint, bytes: Buffer): Buffer => {
    const end = at + BigInt(bytes.length);
    for (const range of changing.filter((each) => each.start < end && each.end > at)) {
      const from = range.start > at ? range.start - at : 0n;
      bytes.fill(0, Number(from), Number(range.end - at));
    }
    return bytes;
  };
  await compare(core, info, async (at, bytes) => {
    const expected = Buffer.from(await image.read(process.pid, at, bytes));
    return { found: mask(at, bytesOf(core, at, bytes)), expected: mask(at, expected) };
  });
  expectNothingElse(core);
  // Whether a mapping without pages of its own is stored depends on what it is joined with.
  const own = [...image.runs(process.pid)].map(({ address, pages }) => {
    return { start: address, end: address + BigInt(pages * PAGE_BYTES) };
  });
  for (const { start, end } of own) {
    for (let at = start; at < end; at += BigInt(PAGE_BYTES)) {
      const isIn = (each: Core) => memoryOf(each, at, 1) !== undefined;
      if (isIn(other) && !isIn(core)) throw new Error(`there is no page at ${at.toString(16)}`);
    }
  }
}

/** What is neither header nor note nor in a segment is not to be found in the file either. */
function expectNothingElse({ bytes, segments }: Core): void {
  const PROGRAM_HEADER_BYTES = 56;
  const tables = Number(bytes.readBigUInt64LE(32));
  const used = [
    { offset: 0, fileBytes: 64 },
    { offset: tables, fileBytes: PROGRAM_HEADER_BYTES * segments.length },
    ...segments,
  ].sort((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, fileBytes } of [...used, { offset: bytes.length, fileBytes: 0 }]) {
    const gap = bytes.subarray(end, Math.max(end, offset));
    if (!gap.equals(Buffer.alloc(gap.length))) throw new Error(`there are bytes from ${end} on`);
    end = Math.max(end, offset + fileBytes);
  }
}

/** Compares all that a core stores with something else. */
async function compare(
  core: Core,
  info: ScheduleInfo,
  read: (address: bigint, bytes: number) => Promise<{ found: Buffer; expected: Buffer }>,
): Promise<void> {
  const lazy = lazyPages(core, info);
  for (const { address, fileBytes } of core.loads) {
    for (let done = 0; done < fileBytes; done += PIECE_BYTES) {
      const start = address + BigInt(done);
      const bytes = Math.min(PIECE_BYTES, fileBytes - done);
      const { found, expected } = await read(start, bytes);
      if (found.equals(expected)) continue;
      for (let skip = 0; skip < bytes; skip += PAGE_BYTES) {
        const [a, b] = [found, expected].map((each) => each.subarray(skip, skip + PAGE_BYTES));
        const at = start + BigInt(skip);
        // The kernel may have dropped such a page since.
        const isLazy = lazy.some((range) => range.start <= at && at < range.end);
        if (a?.equals(b ?? a) || (isLazy && b?.every((byte) => byte === 0))) continue;
        throw new Error(`the page at ${at.toString(16)} differs`);
      }
    }
  }
}

async function expectMemory(core: Core, memory: StoppedMemory, info: ScheduleInfo): Promise<void> {
  await compare(core, info, async (at, bytes) => {
    const expected = memory.read(at, bytes);
    if (expected === undefined) throw new Error(`nobody can read what is at ${at.toString(16)}`);
    return { found: bytesOf(core, at, bytes), expected };
  });
  expect(core.loads.reduce((sum, { fileBytes }) => sum + fileBytes, 0)).toBeGreaterThan(1_000_000);
  for (const { start, end, path } of memory.mappings) {
    if (/^\[v(var|syscall)/.test(path)) continue;
    let at = start;
    for (const load of core.loads) {
      if (load.address === at && at < end) at += load.memoryBytes;
    }
    expect([path, at]).toEqual([path, end]);
  }
}

/** A copy. */
function bytesOf(core: Core, address: bigint, bytes: number): Buffer {
  const found = memoryOf(core, address, bytes);
  if (found?.length !== bytes) throw new Error(`no memory at ${address.toString(16)}`);
  return Buffer.from(found);
}

/** Pages that the target gave to the kernel with MADV_FREE, by its own records. */
function lazyPages(core: Core, info: ScheduleInfo): Range[] {
  const { records, recordBytes, lazyAt, slices, slicePages } = info;
  return slices.flatMap((slice, index) =>
    Array.from({ length: slicePages }, (_, page) => page).flatMap((page) => {
      const record = BigInt(records) + BigInt((index * slicePages + page) * recordBytes + lazyAt);
      if (memoryOf(core, record, 1)?.[0] !== 1) return [];
      const start = BigInt(slice) + BigInt(page * PAGE_BYTES);
      return [{ start, end: start + BigInt(PAGE_BYTES) }];
    }),
  );
}

async function withSeed(seed: number, check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    const cause = error instanceof Error ? error : new Error(String(error));
    cause.message = `seed ${seed} (${JSON.stringify(optionsOf(seed))}): ${cause.message}`;
    throw cause;
  }
}
