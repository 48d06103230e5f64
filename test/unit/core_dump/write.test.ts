/** Cores of images that were made for it, compared with what the images say. */
import { readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { writeCore } from '@sluice/core';
import { describe, expect, test } from 'vitest';
import { mountRefusal, SmallDisk } from '../../harness/temp.js';
import {
  at,
  errorOf,
  noteFile,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  SMALL_PID,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from '../image/support.js';
import { type Core, memoryOf, readCore } from './elf_reader.js';
import { stateOf, threadOf, XSAVE_BYTES } from './support.js';

const noMount = await mountRefusal();

const HEAP = pattern(3 * PAGE, 1);
const FILE = Buffer.concat([Buffer.from('\x7fELF', 'latin1'), pattern(4 * PAGE - 104, 2)]);
const LIBRARY = 32;
const RESERVED = 100;

interface Made {
  dir: string;
  library: string;
  /** Path that a core can have. */
  out: string;
}

/**
 * Heap: stored, zeros, stored, left out, stored. A library of four pages, the last one not whole: code,
 * and data of which one page was written. Reserved memory that nobody touched.
 */
async function makeImage(more: Parameters<typeof processOf>[0] = {}, live = false): Promise<Made> {
  const [dir, files] = [await temporaryDir(), await temporaryDir()];
  const library = join(files, 'lib.so');
  await writeFile(library, FILE);
  const file = await noteFile(library);
  const ofFile = { kind: 'private-file', path: library, inode: file.inode, file } as const;
  const vmas = [
    vmaOf(at(0), 5, { path: '[heap]' }),
    vmaOf(at(LIBRARY), 2, { ...ofFile, protection: 'r-x' }),
    vmaOf(at(LIBRARY + 2), 2, { ...ofFile, offset: BigInt(2 * PAGE) }),
    vmaOf(at(RESERVED), 2 ** 20, { protection: '---' }),
    vmaOf(0xffff_ffff_ff60_0000n, 1, { kind: 'excluded', leftOut: 'vsyscall', path: '[vsyscall]' }),
  ];
  const pageTable = pageTableOf([
    { address: at(0), pages: 1, shard: 0, offset: 0 },
    { address: at(2), pages: 1, shard: 0, offset: PAGE },
    { address: at(4), pages: 1, shard: 0, offset: 2 * PAGE },
    { address: at(LIBRARY + 2), pages: 1, shard: 0, offset: PAGE },
  ]);
  const leftOut = [{ start: at(3), end: at(4), reason: 'poisoned' }];
  const threads = [threadOf(78), threadOf(77, { pendingSignals: 1n }), threadOf(79)];
  const process = processOf({ vmas, pageTable, leftOut, threads, state: stateOf(), ...more });
  const round = { kind: 'live', pagesWritten: 3, bytesWritten: 3 * PAGE, times: {} } as const;
  const taken = live ? { consistency: 'live' as const, rounds: [round] } : {};
  await writeTestImage({ dir, shards: [HEAP], processes: [process], more: taken });
  return { dir, library, out: join(await temporaryDir(), 'core') };
}

async function coreOf(made: Made, options: { filter?: number } = {}): Promise<Core> {
  await using image = await open(made.dir);
  await writeCore(image, { out: made.out, ...options });
  return readCore(await readFile(made.out));
}

const page = (i: number) => HEAP.subarray(i * PAGE, (i + 1) * PAGE);
const zeros = Buffer.alloc(PAGE);

function expectMemory(core: Core, first: number, pages: (Uint8Array | undefined)[]): void {
  pages.forEach((expected, i) => {
    const found = memoryOf(core, at(first + i), PAGE);
    expect(found === undefined || expected === undefined || found.equals(expected)).toBe(true);
    expect([first + i, found?.length]).toEqual([first + i, expected?.length]);
  });
}

describe('writeCore()', () => {
  test('holds memory as the image does, and does not say that what is not there were zeros', async () => {
    const made = await makeImage();
    await using image = await open(made.dir);
    const result = await writeCore(image, { out: made.out });
    expect(result).toMatchObject({
      pid: SMALL_PID,
      out: made.out,
      threads: 3,
      mappings: 5,
      filter: 0x33,
      bytes_written: 6 * PAGE,
      left_out: [{ start: `0x${at(3).toString(16)}`, reason: 'poisoned' }],
      dump: null,
    });
    const core = readCore(await readFile(made.out));
    expect(core.bytes.length).toBe(result.core_bytes);
    expectMemory(core, 0, [page(0), zeros, page(1), undefined, page(2)]);
    // The code has only its first page, the data all, with what the file has of it.
    expectMemory(core, LIBRARY, [FILE.subarray(0, PAGE), undefined, page(1)]);
    const tail = Buffer.concat([FILE.subarray(3 * PAGE), Buffer.alloc(100)]);
    expectMemory(core, LIBRARY + 3, [tail.subarray(0, PAGE)]);
    expectMemory(core, RESERVED, [undefined]);
    expect(
      core.loads.map(({ address, memoryBytes, flags }) => [address, memoryBytes, flags]),
    ).toEqual([
      [at(0), BigInt(3 * PAGE), 6],
      [at(3), BigInt(PAGE), 6],
      [at(4), BigInt(PAGE), 6],
      [at(LIBRARY), BigInt(2 * PAGE), 5],
      [at(LIBRARY + 2), BigInt(2 * PAGE), 6],
      [at(RESERVED), 2n ** 32n, 0],
      [0xffff_ffff_ff60_0000n, BigInt(PAGE), 6],
    ]);
    const { mode, blocks } = await stat(made.out);
    expect(mode & 0o777).toBe(0o600);
    // Of the eight pages with bytes one is a hole.
    expect(blocks * 512).toBeLessThan(core.bytes.length);
  });

  test('takes what the filter says', async () => {
    const none = await coreOf(await makeImage(), { filter: 0 });
    expect(none.loads.map(({ fileBytes }) => fileBytes)).toEqual([0, 0, 0, 0, 0]);
    const files = await coreOf(await makeImage(), { filter: 1 << 2 });
    expect(files.loads.map(({ fileBytes }) => fileBytes / PAGE)).toEqual([0, 2, 2, 0, 0]);
    expectMemory(files, LIBRARY, [FILE.subarray(0, PAGE), FILE.subarray(PAGE, 2 * PAGE)]);
  });

  test('says what it has not if a file was changed', async () => {
    const made = await makeImage();
    await truncate(made.library, PAGE);
    const result = await writeCore(made.dir, { out: made.out });
    expect(result.left_out).toMatchObject([
      { reason: 'poisoned' },
      { start: `0x${at(LIBRARY + 3).toString(16)}`, reason: expect.stringContaining('size') },
    ]);
    const core = readCore(await readFile(made.out));
    // The page that the process had written is in the image itself.
    expectMemory(core, LIBRARY, [undefined, undefined, page(1), undefined]);
  });

  test('has the notes of the kernel, the main thread first', async () => {
    const made = await makeImage();
    const core = await coreOf(made);
    const [PRSTATUS, FPREGSET, PRPSINFO, AUXV, XSTATE] = [1, 2, 3, 6, 0x202];
    const [FILES, SIGINFO] = [0x46494c45, 0x53494749];
    const ofThread = [PRSTATUS, FPREGSET, XSTATE];
    expect(core.notes.map(({ type }) => type)).toEqual([
      ...[PRSTATUS, PRPSINFO, SIGINFO, AUXV, FILES, FPREGSET, XSTATE],
      ...ofThread,
      ...ofThread,
    ]);
    const note = (type: number, i = 0) =>
      core.notes.filter((each) => each.type === type)[i]?.bytes as Buffer;
    for (const [i, tid] of [77, 78, 79].entries()) {
      const status = note(PRSTATUS, i);
      expect(status.length).toBe(336);
      // Of the process's own pid namespace, as the kernel has it.
      expect([32, 36, 40, 44].map((offset) => status.readInt32LE(offset))).toEqual([
        tid - 70,
        3,
        4,
        5,
      ]);
      expect(status.readUInt16LE(12)).toBe(0);
      expect(status.readBigUInt64LE(16)).toBe(tid === 77 ? 1n : 0x5678n);
      expect(status.readBigUInt64LE(24)).toBe(0x1234n);
      expect(status.subarray(112, 328).equals(pattern(216, tid))).toBe(true);
      expect(status.readInt32LE(328)).toBe(1);
      const extended = pattern(XSAVE_BYTES, tid + 1);
      expect(note(XSTATE, i).equals(extended)).toBe(true);
      expect(note(FPREGSET, i).equals(extended.subarray(0, 512))).toBe(true);
    }
    const info = note(PRPSINFO);
    expect(info.length).toBe(136);
    expect([info.toString('latin1', 1, 2), info.readInt8(3)]).toEqual(['R', -2]);
    expect(info.readBigUInt64LE(8)).toBe(0x400100n);
    expect([16, 20, 24, 28, 32, 36].map((offset) => info.readInt32LE(offset))).toEqual([
      1000, 2000, 7, 3, 4, 5,
    ]);
    expect(info.toString('latin1', 40, 56)).toBe('target'.padEnd(16, '\0'));
    expect(info.toString('latin1', 56)).toBe('target  --flag'.padEnd(80, '\0'));
    expect(note(AUXV).equals(pattern(320, 9))).toBe(true);
    expect(note(SIGINFO).equals(Buffer.alloc(128))).toBe(true);
    const files = note(FILES);
    const numbers = Array.from({ length: 8 }, (_, i) => files.readBigUInt64LE(8 * i));
    expect(numbers).toEqual([
      2n,
      4096n,
      at(LIBRARY),
      at(LIBRARY + 2),
      0n,
      at(LIBRARY + 2),
      at(LIBRARY + 4),
      2n,
    ]);
    expect(files.toString('utf8', 64)).toBe(`${made.library}\0${made.library}\0`);
  });

  test('says last where the registers of each feature of the processor are, if that is known', async () => {
    const extendedLayout = [
      { number: 2, bytes: 256, offset: 576 },
      { number: 9, bytes: 8, offset: 2432 },
    ];
    const { notes } = await coreOf(await makeImage({ state: stateOf({ extendedLayout }) }));
    const last = notes.at(-1);
    expect([last?.owner, last?.type]).toEqual(['LINUX', 0x205]);
    const numbers = Array.from({ length: 8 }, (_, i) => last?.bytes.readUInt32LE(4 * i));
    expect(numbers).toEqual([2, 256, 576, 0, 9, 8, 2432, 0]);
    expect(last?.bytes.length).toBe(32);
    const without = await coreOf(await makeImage({ state: stateOf() }));
    expect(without.notes.map(({ type }) => type)).not.toContain(0x205);
  });

  test('leaves out registers that are not known', async () => {
    const threads = [threadOf(77, { extendedRegisters: new Uint8Array() })];
    const core = await coreOf(await makeImage({ threads }));
    expect(core.notes.map(({ type }) => type)).not.toContain(2);
    expect(core.notes.map(({ type }) => type)).not.toContain(0x202);
    expect(core.notes[0]?.bytes.readInt32LE(328)).toBe(0);
  });

  test('gives a stream the same bytes in order, and does not end it', async () => {
    const made = await makeImage();
    const core = await coreOf(made);
    const parts: Buffer[] = [];
    const stream = new Writable({
      highWaterMark: 1,
      write(part: Buffer, _, taken) {
        parts.push(Buffer.from(part));
        setImmediate(taken);
      },
    });
    const result = await writeCore(made.dir, { out: stream });
    expect(result).toMatchObject({ out: null, core_bytes: core.bytes.length });
    expect(Buffer.concat(parts).equals(core.bytes)).toBe(true);
    expect(stream.writable).toBe(true);
    expect(stream.listenerCount('error')).toBe(0);
  });
});

describe('writeCore() fails, and leaves nothing,', () => {
  async function failure(made: Made, options: Partial<Parameters<typeof writeCore>[1]> = {}) {
    const error = await errorOf(writeCore(made.dir, { out: made.out, ...options }));
    expect(await readdir(join(made.out, '..'))).toEqual([]);
    return error;
  }

  test('without threads', async () => {
    const live = await makeImage({ threads: [], state: null }, true);
    expect(await failure(live)).toMatchObject({ code: 'ERR_SLUICE_NO_THREADS' });
  });

  test('with registers of another machine', async () => {
    const odd = await makeImage({ threads: [threadOf(77, { registers: pattern(272, 1) })] });
    expect(await failure(odd)).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
  });

  test('for a process that is not there', async () => {
    expect(await failure(await makeImage(), { pid: 5 })).toMatchObject({
      code: 'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
    });
  });

  test.each([
    [{ filter: 0x200 }, 'filter'],
    [{ filter: -1 }, 'filter'],
    [{ pid: 0 }, 'pid'],
    [{ out: '' }, 'out'],
    [{ out: {} }, 'out'],
    [{ signal: {} }, 'signal'],
    [{ lanes: 2 }, 'lanes'],
  ])('with options %o', async (options, name) => {
    const error = await failure(await makeImage(), options as object);
    expect(error.code).toBe('ERR_SLUICE_OPTION');
    expect(error.message).toContain(`"${name}"`);
  });

  test('where something is already, which stays as it is', async () => {
    const made = await makeImage();
    await writeFile(made.out, 'mine');
    const error = await errorOf(writeCore(made.dir, { out: made.out }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS', file: made.out });
    expect(await readFile(made.out, 'utf8')).toBe('mine');
  });

  test('where nothing can be', async () => {
    const made = await makeImage();
    const error = await errorOf(writeCore(made.dir, { out: join(made.out, 'core') }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_NOT_WRITABLE', syscall: 'open' });
  });

  test('from a shard that is damaged', async () => {
    const made = await makeImage();
    await writeFile(join(made.dir, 'shard-0000.img'), pattern(3 * PAGE, 77));
    expect(await failure(made)).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT' });
  });

  test('when it is aborted', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    expect(await failure(await makeImage(), { signal })).toMatchObject({ code: 'ABORT_ERR' });
  });

  test('when it is aborted while nobody reads the stream', async () => {
    const controller = new AbortController();
    const stream = new Writable({ write: () => controller.abort(new Error('enough')) });
    const error = await failure(await makeImage(), { out: stream, signal: controller.signal });
    expect(error).toMatchObject({ code: 'ABORT_ERR', cause: controller.signal.reason });
  });

  test('with the error of the stream', async () => {
    const cause = Object.assign(new Error('write EPIPE'), {
      code: 'EPIPE',
      syscall: 'write',
      errno: -32,
    });
    const stream = new Writable({ write: (_, __, taken) => taken(cause) });
    const error = await failure(await makeImage(), { out: stream });
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IO', errno: 32, cause });
    const again = await failure(await makeImage(), { out: stream });
    expect(again).toMatchObject({ code: 'ERR_SLUICE_IO' });
  });

  test.skipIf(noMount)('if the disk gets full', async () => {
    await using disk = new SmallDisk(16 * PAGE);
    const made = { ...(await makeImage()), out: disk.join('core') };
    // The head alone is larger.
    const filler = 'x'.repeat(12 * PAGE);
    await writeFile(disk.join('filler'), filler);
    const error = await errorOf(writeCore(made.dir, { out: made.out }));
    expect(error.code).toBe('ERR_SLUICE_DISK_FULL');
    expect(await readdir(disk.path)).toEqual(['filler']);
  });
});
