/**
 * The image of a process is its memory, byte for byte: for each kind of process, for each capture
 * backend, way of writing and number of lanes. And the process goes on as if nothing had been.
 */
import { spawnSync } from 'node:child_process';
import type { Image } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { type Dump, directRefusal, dumpOf, storedRanges } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { type CompareOptions, type StoppedMemory, whileStopped } from '../harness/oracle.js';
import { patternBytes, wordAt } from '../harness/pattern.js';
import { readMappings } from '../harness/procfs.js';
import { startStranger, startTarget, type TestTarget } from '../harness/target.js';
import { HugePagePool, TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const noDirect = await directRefusal();
const LIMIT_MS = 180_000;
const CAPTURES = ['vmsplice', 'read'] as const;
const IOS = ['direct', 'buffered'] as const;

interface Way {
  capture: (typeof CAPTURES)[number];
  io: (typeof IOS)[number];
  lanes: number;
}

const EVERY_WAY: readonly Way[] = CAPTURES.flatMap((capture) =>
  IOS.flatMap((io) => [1, 2, 4].map((lanes) => ({ capture, io, lanes }))),
);
const SOME_WAYS: readonly Way[] = [
  { capture: 'vmsplice', io: 'direct', lanes: 2 },
  { capture: 'vmsplice', io: 'buffered', lanes: 1 },
  { capture: 'read', io: 'direct', lanes: 1 },
  { capture: 'read', io: 'buffered', lanes: 4 },
];

interface Case {
  ways?: readonly Way[];
  /** Its threads, mappings and descriptors change while it runs. */
  busy?: boolean;
  /** What it is asked after it was stopped with SIGSTOP. */
  checkStopped?: string;
  compare?: CompareOptions;
  force?: boolean;
}

/** Dumps a process running and stopped, in several ways, and compares what can be compared. */
async function dumpInAllWays(
  target: TestTarget,
  { ways = SOME_WAYS, busy = false, checkStopped = 'check', compare = {}, force }: Case,
): Promise<void> {
  const { pid } = target;
  await target.check();
  for (const capture of CAPTURES) {
    const before = viewOf(pid);
    await using dump = await dumpOf(pid, { capture, force });
    await assertUntouched(pid, before, { busy });
    await dump.image.verify();
    await target.check();
  }
  await whileStopped(pid, async (memory) => {
    await dumpInBothCaptures(pid, memory, compare, force);
    const tables = new Set<string>();
    for (const way of ways) {
      if (way.io === 'direct' && noDirect !== undefined) continue;
      // Comparing touches pages, so each dump has a view of its own before it.
      const before = viewOf(pid);
      await using dump = await dumpOf(pid, { ...way, drains: way.lanes > 1 ? 2 : 1, force });
      await assertUntouched(pid, before);
      expectSummary(dump, way);
      expect((await memory.compare(dump.image, compare)).bytes).toBeGreaterThan(100_000n);
      await dump.image.verify();
      tables.add(storedPages(dump.image, pid));
    }
    // All of them hold the same pages.
    expect(tables.size).toBe(1);
  });
  await target.check(checkStopped);
  await target.check();
}

/** Before anybody has looked at the memory, which touches pages: both store the same ones. */
async function dumpInBothCaptures(
  pid: number,
  memory: StoppedMemory,
  compare: CompareOptions,
  force: boolean | undefined,
): Promise<void> {
  await using spliced = await dumpOf(pid, { capture: 'vmsplice', force });
  await using read = await dumpOf(pid, { capture: 'read' });
  expect(storedPages(read.image, pid)).toBe(storedPages(spliced.image, pid));
  await memory.compare(spliced.image, compare);
  await memory.compare(read.image, compare);
}

function storedPages(image: Image, pid: number): string {
  return storedRanges(image, pid)
    .map(({ start, end }) => `${start.toString(16)}-${end.toString(16)}`)
    .join('\n');
}

function expectSummary({ result, image }: Dump, way: Way): void {
  const { pages_written, bytes_written, pages_scanned } = result;
  expect(result).toMatchObject(way);
  expect(bytes_written).toBe(pages_written * 4096);
  expect(pages_scanned).toBeGreaterThanOrEqual(pages_written);
  expect(result.freezing_time).toBeLessThanOrEqual(result.frozen_time);
  expect(result.memdump_time).toBeLessThanOrEqual(result.frozen_time);
  const pages = [...image.runs(result.pid)].reduce((sum, run) => sum + run.pages, 0);
  expect(pages).toBe(pages_written + result.pages_aliased);
  expect(image.manifest.shards.length).toBe(result.shards);
}

describe('the image equals the memory of', () => {
  it('a program with every kind of mapping', { timeout: LIMIT_MS }, async () => {
    await using dir = new TempDir();
    await using target = await startTarget<MappingsInfo>('mappings', [dir.path]);
    const droppable = regionsOf(target.info)
      .filter(({ expect }) => expect.includes('E'))
      .map(({ start, end }) => ({ start, end }));
    await dumpInAllWays(target, { ways: EVERY_WAY, compare: { droppable } });
  });

  it(
    'a program with huge pages of hugetlbfs',
    async (ctx) => {
      await using pool = new HugePagePool();
      if (pool.refusal !== undefined) ctx.skip(pool.refusal);
      await using dir = new TempDir();
      await using target = await startTarget<MappingsInfo>('mappings', [dir.path, 'hugetlb']);
      expect(target.info.absent.map(({ name }) => name)).not.toContain('hugetlb');
      const droppable = regionsOf(target.info).filter(({ expect }) => expect.includes('E'));
      await dumpInAllWays(target, { compare: { droppable } });
    },
    LIMIT_MS,
  );

  it('a program with 64 threads in different system calls', { timeout: LIMIT_MS }, async () => {
    await using dir = new TempDir();
    await using target = await startTarget('threads64', [dir.path]);
    await dumpInAllWays(target, { busy: true, checkStopped: 'check stopped' });
  });

  it('a program that writes all the time', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['64', '1000']);
    await dumpInAllWays(target, { busy: true });
  });

  it('a program that writes to huge pages', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('writer', ['64', '1000', 'thp']);
    await dumpInAllWays(target, { busy: true });
  });

  it('a Node process that is a child of the dumping one', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('node_target.mjs', ['32']);
    await dumpInAllWays(target, { busy: true });
    expect(target.endings).toEqual([]);
    await target.stop();
    expect(target.endings).toEqual([{ code: 0, signal: null }]);
  });

  it('a Node process of another parent', { timeout: LIMIT_MS }, async () => {
    await using target = await startStranger('node_target.mjs', ['32']);
    await dumpInAllWays(target, { busy: true });
  });

  it('a Python process', { timeout: LIMIT_MS }, async (ctx) => {
    const { error } = spawnSync('python3', ['--version']);
    if (error !== undefined) ctx.skip(`python3 does not run: ${error.message}`);
    await using target = await startTarget('python_target.py', ['16']);
    await dumpInAllWays(target, { busy: true });
  });

  for (const mode of ['process', 'polite', 'thread', 'strict']) {
    it(`a program under seccomp (${mode})`, async () => {
      await using target = await startTarget('seccomp', [mode]);
      await dumpInAllWays(target, { force: true });
    });
  }

  it('a program that keeps a zombie', async () => {
    await using target = await startTarget('zombie');
    await dumpInAllWays(target, {});
  });
});

it('O_DIRECT is among the ways', async (ctx) => {
  if (noDirect !== undefined) ctx.skip(noDirect);
  await using target = await startTarget('churn', ['still']);
  await using dump = await dumpOf(target.pid, { io: 'auto' });
  expect(dump.result).toMatchObject({ io: 'direct', io_reason: '' });
});

describe('the image holds what the program put there', () => {
  it.each(CAPTURES)('in every kind of mapping (%s)', async (capture) => {
    await using dir = new TempDir();
    await using target = await startTarget<MappingsInfo>('mappings', [dir.path]);
    const { pid, info } = target;
    await using dump = await dumpOf(pid, { capture });
    const seed = BigInt(info.seed);
    const stored = storedRanges(dump.image, pid);
    const isStored = (page: bigint) => stored.some(({ start, end }) => page >= start && page < end);
    for (const region of regionsOf(info)) {
      const pages = Number((region.end - region.start) / 4096n);
      const step = Math.max(1, Math.floor(pages / 40));
      for (let page = 0; page < pages; page += step) {
        const expected = region.expect[page % region.expect.length] ?? '';
        const address = region.start + BigInt(page) * 4096n;
        const where = `${region.name} page ${page} (${expected})`;
        if (expected === 'X') {
          expect(isStored(address), where).toBe(false);
          continue;
        }
        if (expected === '?') continue;
        const found = await dump.image.read(pid, address, 4096);
        const own = patternBytes(region.key + BigInt(page) * 4096n, seed);
        const file = patternBytes(region.fileKey + BigInt(page) * 4096n, seed);
        const zeros = new Uint8Array(4096);
        const right = {
          P: [own],
          F: [file],
          H: [Buffer.concat([own.subarray(0, 2048), file.subarray(2048)])],
          T: [Buffer.concat([file.subarray(0, info.tail), zeros.subarray(info.tail)])],
          Z: [zeros],
          E: [own, zeros],
        }[expected];
        expect(
          right?.some((bytes) => Buffer.from(bytes).equals(found)),
          where,
        ).toBe(true);
      }
    }
    await target.check();
  });

  it('even what only a reader of the image can find: a text in a Node process', async () => {
    await using target = await startTarget<{ pid: number; marker: string }>('node_target.mjs', [
      '8',
    ]);
    const { pid, info } = target;
    await using dump = await dumpOf(pid);
    let found = false;
    for (const { address, pages } of dump.image.runs(pid)) {
      const bytes = Buffer.from(await dump.image.read(pid, address, pages * 4096));
      found ||= bytes.includes(`${info.marker}\n${info.marker}\n`);
    }
    expect(found).toBe(true);
  });

  it('and leaves out only what it must', async () => {
    await using dir = new TempDir();
    await using target = await startTarget<MappingsInfo>('mappings', [dir.path]);
    await using dump = await dumpOf(target.pid);
    const regions = regionsOf(target.info);
    for (const { start, end, reason } of dump.result.left_out) {
      const region = regions.find((r) => BigInt(start) >= r.start && BigInt(start) < r.end);
      const mapping = viewOfMapping(target.pid, BigInt(start));
      expect(
        ['secret', 'guarded', 'file-tail', 'io-uring'].includes(region?.name ?? '') ||
          ['[vvar]', '[vvar_vclock]', '[vsyscall]'].includes(mapping),
        `${start}-${end} ${region?.name ?? mapping}: ${reason}`,
      ).toBe(true);
      expect(reason).not.toBe('');
    }
  });
});

describe('the image of a running process is one instant', () => {
  for (const capture of CAPTURES) {
    for (const lanes of [1, 4]) {
      it(`${capture}, ${lanes} lanes`, async () => {
        await using target = await startTarget<WriterInfo>('writer', ['4', '5000']);
        const { pid, info } = target;
        for (let turn = 0; turn < 5; turn++) {
          await using dump = await dumpOf(pid, { capture, lanes });
          await expectOneInstant(dump, info);
          await target.check();
        }
      });
    }
  }
});

describe('64 threads in different system calls', () => {
  for (const capture of CAPTURES) {
    it(`notice nothing of many dumps (${capture})`, { timeout: LIMIT_MS }, async () => {
      await using dir = new TempDir();
      await using target = await startTarget('threads64', [dir.path]);
      for (let turn = 0; turn < 20; turn++) {
        const before = viewOf(target.pid);
        await using dump = await dumpOf(target.pid, { capture, lanes: 1 + (turn % 3) });
        expect(dump.image.processes[0]?.threads.length).toBe(target.info.threads);
        await assertUntouched(target.pid, before, { busy: true });
        if (turn % 5 === 4) await target.check();
      }
    });
  }
});

async function expectOneInstant({ image }: Dump, info: WriterInfo): Promise<void> {
  const { pid } = info;
  const words = async (address: bigint, bytes: number) => {
    const copy = Buffer.from(await image.read(pid, address, bytes));
    return new BigUint64Array(copy.buffer, copy.byteOffset, bytes / 8);
  };
  const sweep = await words(BigInt(info.sweep), info.sweepPages * 4096);
  const turns = Array.from(
    { length: info.sweepPages },
    (_, step) => sweep[((step * info.sweepStep) % info.sweepPages) * 512] ?? 0n,
  );
  const [first = 0n] = turns;
  const drop = turns.findIndex((turn) => turn !== first);
  const rest = drop < 0 ? [] : turns.slice(drop);
  expect(rest.every((turn) => turn === first - 1n)).toBe(true);

  const counters = await words(BigInt(info.counters), 2 * 4096);
  const [ahead = 0n, behind = 0n] = [counters[0], counters[512]];
  expect([0n, 1n]).toContain(ahead - behind);

  const start = BigInt(info.values);
  const values = await words(start, info.valueBytes);
  // Each word follows from its address and its lower half.
  for (let i = 0; i < values.length; i += 13) {
    const value = values[i] ?? 0n;
    const address = start + BigInt(i * 8);
    const expected = BigInt.asUintN(
      64,
      (wordAt(address, value & 0xffffffffn) << 32n) | (value & 0xffffffffn),
    );
    if (value !== expected) expect({ i, value }).toEqual({ i, value: expected });
  }
}

describe('a child of the dumping Node process', () => {
  it('is dumped hundreds of times, and its exit event fires once', {
    timeout: LIMIT_MS,
  }, async () => {
    await using target = await startTarget('churn', ['still']);
    const before = viewOf(target.pid);
    for (let turn = 0; turn < 200; turn++) {
      const capture = turn % 4 === 3 ? 'read' : 'vmsplice';
      await using dump = await dumpOf(target.pid, { capture, lanes: 1 + (turn % 2), drains: 1 });
      expect(dump.result.capture).toBe(capture);
      expect(target.endings).toEqual([]);
    }
    await assertUntouched(target.pid, before);
    await target.check();
    await target.stop();
    expect(target.endings).toEqual([{ code: 0, signal: null }]);
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)(
    'that %s ends while it is dumped ends once',
    async (signal) => {
      await using target = await startTarget('writer', ['64', '100']);
      const dump = dumpOf(target.pid).then(
        (done) => done[Symbol.asyncDispose](),
        () => undefined,
      );
      await new Promise((resolve) => setTimeout(resolve, 50));
      target.signal(signal);
      await dump;
      await target.ended();
      expect(target.endings).toEqual([{ code: null, signal }]);
    },
  );
});

interface MappingsInfo {
  pid: number;
  seed: number;
  tail: number;
  absent: { name: string; reason: string }[];
  regions: {
    name: string;
    start: string;
    bytes: number;
    key: string;
    fileKey: string;
    expect: string;
  }[];
  [field: string]: unknown;
}

interface WriterInfo {
  pid: number;
  values: string;
  valueBytes: number;
  sweep: string;
  sweepPages: number;
  sweepStep: number;
  counters: string;
  [field: string]: unknown;
}

interface Region {
  name: string;
  start: bigint;
  end: bigint;
  key: bigint;
  fileKey: bigint;
  expect: string;
}

function regionsOf({ regions }: MappingsInfo): Region[] {
  return regions.map(({ name, start, bytes, key, fileKey, expect }) => ({
    name,
    start: BigInt(start),
    end: BigInt(start) + BigInt(bytes),
    key: BigInt(key),
    fileKey: BigInt(fileKey),
    expect,
  }));
}

function viewOfMapping(pid: number, address: bigint): string {
  const mapping = readMappings(pid).find(({ start, end }) => address >= start && address < end);
  return mapping?.path ?? '';
}
