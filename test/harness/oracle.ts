/**
 * Memory as the kernel shows it, and its comparison with an image. Naive on purpose, and without a
 * line of the product: every byte comes through /proc/PID/mem while the process is stopped.
 */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { type Image, SluiceError } from '@sluice/core';
import { expect } from 'vitest';
import {
  isStopped,
  type Mapping,
  readMappings,
  readVmFlags,
  stateOf,
  threadsOf,
} from './procfs.js';
import { waitFor } from './wait.js';

const PAGE = 4096n;
const CHUNK = 1024n * 1024n;
/** Private anonymous mappings above this are looked at only where they have pages. */
const SPARSE_BYTES = 256n * 1024n * 1024n;
const SCRATCH_BYTES = 32n * 1024n;
const SCRATCH_MAGIC = 'Sluice scratch01';

/** Stops a process with SIGSTOP for as long as `work` takes. */
export async function whileStopped<Value>(
  pid: number,
  work: (memory: StoppedMemory) => Promise<Value>,
): Promise<Value> {
  process.kill(pid, 'SIGSTOP');
  try {
    await waitFor(`process ${pid} is stopped`, () => isStopped(pid));
    using memory = new StoppedMemory(pid);
    return await work(memory);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/** Looks at a process that a dump holds frozen. */
export async function whileHeld<Value>(
  pid: number,
  work: (memory: StoppedMemory) => Promise<Value>,
): Promise<Value> {
  const states = () => threadsOf(pid).map((tid) => stateOf(pid, tid));
  const frozen = threadsOf(pid).map(() => 't');
  expect(states()).toEqual(frozen);
  using memory = new StoppedMemory(pid);
  const value = await work(memory);
  expect(states()).toEqual(frozen);
  return value;
}

export interface CompareOptions {
  /** Ranges whose pages the kernel may drop at any time (MADV_FREE): an image may hold what they had. */
  droppable?: { start: bigint; end: bigint }[];
  /**
   * The image was restored: registers are those of now, and neighbours that only the kernel tells
   * apart may have become one mapping.
   */
  restored?: boolean;
  /** A file that only the process sees, as in a container: what the image leaves to it cannot be read. */
  hiddenFile?: string;
}

export interface Comparison {
  bytes: bigint;
  /** Pages that neither the kernel nor the image lets be read. */
  unreadablePages: number;
}

/** The memory of a process that is stopped: nothing in it changes while this is in use. */
export class StoppedMemory implements Disposable {
  readonly pid: number;
  readonly mappings: Mapping[];
  readonly #flags: Map<bigint, Set<string>>;
  readonly #mem: number;
  readonly #parts = new Map<Mapping, Part[]>();

  constructor(pid: number) {
    this.pid = pid;
    this.#flags = readVmFlags(pid);
    this.#mem = openSync(`/proc/${pid}/mem`, 'r');
    this.mappings = readMappings(pid).filter((mapping) => !this.#belongsToDumper(mapping));
  }

  [Symbol.dispose](): void {
    closeSync(this.#mem);
  }

  /** Bytes of the process, or undefined if some of them cannot be read. */
  read(address: bigint, bytes: number): Buffer | undefined {
    return readMemory(this.#mem, address, Buffer.alloc(bytes));
  }

  /** Fails at any difference between the image and this memory. */
  async compare(image: Image, options: CompareOptions = {}): Promise<Comparison> {
    const process = image.processes.find(({ pid }) => pid === this.pid);
    if (process === undefined) throw new Error(`The image does not hold process ${this.pid}`);
    const plain = ({ start, end, protection, shared, offset, device, inode, path }: Mapping) => {
      return { start, end, protection, shared, offset, device, inode, path };
    };
    const listed = (mappings: Mapping[]) =>
      options.restored ? joinNeighbours(mappings.map(plain)) : mappings.map(plain);
    expect(listed(process.vmas)).toEqual(listed(this.mappings));
    expect(process.threads.map(({ tid }) => tid).sort((a, b) => a - b)).toEqual(
      threadsOf(this.pid),
    );
    if (!options.restored) {
      for (const { tid, registers } of process.threads) compareRegisters(this.pid, tid, registers);
    }

    const threadPointers = process.threads.map(({ registers }) => register(registers, 'fsBase'));
    const comparing = new Comparing(image, this.pid, this.#mem, threadPointers, options);
    for (const mapping of this.mappings) {
      const vma = process.vmas.find(
        ({ start, end }) => start <= mapping.start && end > mapping.start,
      );
      const excluded = vma?.kind === 'excluded';
      if (this.#hasNoMemory(mapping)) {
        if (!excluded) comparing.wrong(mapping, mapping.start, 'is not left out');
        continue;
      }
      if (excluded) {
        comparing.wrong(mapping, mapping.start, 'was left out');
        continue;
      }
      for (const part of this.#partsOf(mapping, image)) await comparing.range(mapping, part);
    }
    return comparing.finish();
  }

  /** What a dumper has mapped there for as long as it holds the process. */
  #belongsToDumper({ start, end, protection, inode }: Mapping): boolean {
    if (protection !== '-w-' || inode !== 0n || end - start !== SCRATCH_BYTES) return false;
    return this.read(start, SCRATCH_MAGIC.length)?.toString('latin1') === SCRATCH_MAGIC;
  }

  /** Mappings of devices and of the kernel, and memory that is secret even from it. */
  #hasNoMemory({ start, path }: Mapping): boolean {
    const flags = this.#flags.get(start) ?? new Set();
    return (
      ['[vvar]', '[vvar_vclock]', '[vsyscall]'].includes(path) ||
      path.startsWith('/secretmem') ||
      // A ring shared with the kernel, of no use without its io_uring.
      path === 'anon_inode:[io_uring]' ||
      flags.has('io') ||
      flags.has('pf')
    );
  }

  /** What of a mapping is to be compared: all of it, or what can differ from zeros. */
  #partsOf(mapping: Mapping, image: Image): Part[] {
    const { start, end, shared, inode } = mapping;
    if (end - start <= SPARSE_BYTES || shared || inode !== 0n) return [{ start, end }];
    let present = this.#parts.get(mapping);
    if (present === undefined) {
      present = [...presentParts(this.pid, mapping)];
      this.#parts.set(mapping, present);
    }
    const stored = [...image.runs(this.pid)]
      .map(({ address, pages }) => ({ start: address, end: address + BigInt(pages) * PAGE }))
      .filter((run) => run.start < end && run.end > start);
    // Some holes, too, must read as zeros; memory there was never touched.
    const samples = [1n, 3n, 5n, 7n].map((eighth) => {
      const at = start + ((((end - start) / 8n) * eighth) / PAGE) * PAGE;
      return { start: at, end: at + 2n * PAGE };
    });
    return [...present, ...stored, ...samples];
  }
}

function joinNeighbours(mappings: Mapping[]): Mapping[] {
  const joined: Mapping[] = [];
  for (const mapping of mappings) {
    const { start, end, offset, ...rest } = mapping;
    const last = joined.at(-1);
    const { start: before, end: touches, offset: from, ...same } = last ?? mapping;
    const follows = rest.inode === 0n ? 0n : from + (start - before) - offset;
    if (
      last !== undefined &&
      touches === start &&
      follows === 0n &&
      isDeepStrictEqual(rest, same)
    ) {
      last.end = end;
    } else {
      joined.push({ ...mapping });
    }
  }
  return joined;
}

interface Part {
  start: bigint;
  end: bigint;
}

/** One comparison under way; collects the first differences. */
class Comparing {
  readonly #image: Image;
  readonly #pid: number;
  readonly #mem: number;
  readonly #threadPointers: readonly bigint[];
  readonly #options: CompareOptions;
  readonly #buffer = Buffer.alloc(Number(CHUNK));
  readonly #faults: string[] = [];
  #bytes = 0n;
  #unreadablePages = 0;

  constructor(
    image: Image,
    pid: number,
    mem: number,
    threadPointers: readonly bigint[],
    options: CompareOptions,
  ) {
    this.#image = image;
    this.#pid = pid;
    this.#mem = mem;
    this.#threadPointers = threadPointers;
    this.#options = options;
  }

  wrong({ path, protection, shared }: Mapping, address: bigint, what: string): void {
    const name = path === '' ? 'anonymous' : path;
    const share = shared ? 's' : 'p';
    this.#faults.push(`0x${address.toString(16)} (${name} ${protection}${share}): ${what}`);
  }

  async range(mapping: Mapping, { start, end }: Part): Promise<void> {
    for (let at = start; at < end && this.#faults.length < 20; at += CHUNK) {
      const bytes = Number(end - at < CHUNK ? end - at : CHUNK);
      const memory = this.#read(at, bytes);
      const image = await this.#readImage(at, bytes);
      if (memory !== undefined && image instanceof Uint8Array && memory.equals(image)) {
        this.#bytes += BigInt(bytes);
      } else {
        for (let i = 0; i < bytes; i += Number(PAGE)) await this.#page(mapping, at + BigInt(i));
      }
    }
  }

  finish(): Comparison {
    expect(this.#faults).toEqual([]);
    return { bytes: this.#bytes, unreadablePages: this.#unreadablePages };
  }

  async #page(mapping: Mapping, address: bigint): Promise<void> {
    const image = await this.#readImage(address, Number(PAGE));
    const memory = this.#read(address, Number(PAGE));
    if (memory === undefined) {
      // Guard pages and what lies beyond the end of a file: the image has nothing to say about them.
      this.#unreadablePages++;
      if (image instanceof Uint8Array && image.some((byte) => byte !== 0)) {
        this.wrong(mapping, address, 'the image holds what cannot be read');
      }
      return;
    }
    if (!(image instanceof Uint8Array)) {
      const isHidden = mapping.path === this.#options.hiddenFile;
      if (isHidden && image.code === 'ERR_SLUICE_FILE_CHANGED') return;
      this.wrong(mapping, address, `the image cannot be read: ${image.code} ${image.message}`);
      return;
    }
    this.#bytes += PAGE;
    if (memory.equals(image)) return;
    const dropped = memory.every((byte) => byte === 0) && this.#mayDrop(address);
    if (dropped || this.#differsInRseq(address, memory, image)) return;
    const at = memory.findIndex((byte, index) => byte !== image[index]);
    const is = Buffer.from(image.subarray(at, at + 8)).toString('hex');
    const should = memory.subarray(at, at + 8).toString('hex');
    this.wrong(mapping, address, `byte ${at} of the page: image ${is}, memory ${should}`);
  }

  /**
   * Whether only numbers of CPUs differ, in a thread's area for restartable sequences (rseq(2)): the
   * kernel writes there whenever a thread wakes up, even if only to be stopped again.
   */
  #differsInRseq(address: bigint, memory: Buffer, image: Uint8Array): boolean {
    const wrong = [...memory.keys()].filter((at) => memory[at] !== image[at]);
    const areas = new Set(wrong.map((at) => at - (at % RSEQ_BYTES)));
    const stored = Buffer.from(image);
    return [...areas].every((area) => {
      const distance = (pointer: bigint) => Number(address + BigInt(area) - pointer);
      const isNear = this.#threadPointers.some((pointer) => Math.abs(distance(pointer)) < 4096);
      const isField = wrong.every(
        (at) => at < area || at >= area + RSEQ_BYTES || isCpuField(at - area),
      );
      const values = RSEQ_CPU_FIELDS.flatMap((field) => [
        memory.readUInt32LE(area + field),
        stored.readUInt32LE(area + field),
      ]);
      return isNear && isField && values.every((value) => value < MOST_CPUS);
    });
  }

  #mayDrop(address: bigint): boolean {
    const ranges = this.#options.droppable ?? [];
    return ranges.some(({ start, end }) => address >= start && address < end);
  }

  #read(address: bigint, bytes: number): Buffer | undefined {
    return readMemory(this.#mem, address, this.#buffer.subarray(0, bytes));
  }

  async #readImage(address: bigint, bytes: number): Promise<Uint8Array | SluiceError> {
    try {
      return await this.#image.read(this.#pid, address, bytes);
    } catch (error) {
      if (SluiceError.isSluiceError(error)) return error;
      throw error;
    }
  }
}

function readMemory(mem: number, address: bigint, buffer: Buffer): Buffer | undefined {
  try {
    const got = readSync(mem, buffer, 0, buffer.length, address);
    return got === buffer.length ? buffer : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') return undefined;
    throw error;
  }
}

/** Ranges with pages, from /proc/PID/pagemap: 8 bytes a page, bit 63 present, bit 62 swapped. */
function* presentParts(pid: number, { start, end }: Mapping): Generator<Part> {
  const buffer = Buffer.alloc(1024 * 1024);
  const nothing = Buffer.alloc(buffer.length);
  const entries = BigInt(buffer.length / 8);
  const pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    for (let at = start; at < end; at += entries * PAGE) {
      const left = (end - at) / PAGE;
      const bytes = Number(left < entries ? left : entries) * 8;
      const got = readSync(pagemap, buffer, 0, bytes, (at / PAGE) * 8n);
      if (got !== bytes) throw new Error(`Short read of pagemap at 0x${at.toString(16)}`);
      if (buffer.compare(nothing, 0, bytes, 0, bytes) === 0) continue;
      for (let i = 0; i < bytes; i += 8) {
        if ((buffer[i + 7] ?? 0) < 0x40) continue;
        const address = at + BigInt(i / 8) * PAGE;
        yield { start: address, end: address + PAGE };
      }
    }
  } finally {
    closeSync(pagemap);
  }
}

// Offsets in struct rseq: cpu_id_start, cpu_id, node_id, mm_cid.
const RSEQ_BYTES = 32;
const RSEQ_CPU_FIELDS = [0, 4, 20, 24];
const MOST_CPUS = 8192;

function isCpuField(offset: number): boolean {
  return RSEQ_CPU_FIELDS.some((field) => offset >= field && offset < field + 4);
}

// Positions in struct user_regs_struct.
const REGISTERS = {
  fsBase: 21,
  rdi: 14,
  rsi: 13,
  rdx: 12,
  r10: 7,
  r8: 9,
  r9: 8,
  origRax: 15,
  rip: 16,
  rsp: 19,
};

function register(bytes: Uint8Array, name: keyof typeof REGISTERS): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getBigUint64(REGISTERS[name] * 8, true);
}

/** /proc/PID/task/TID/syscall shows some registers: system call, its arguments, stack, program. */
function compareRegisters(pid: number, tid: number, bytes: Uint8Array): void {
  const text = readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'latin1').trim();
  const fields = text.split(' ').map((field) => BigInt.asUintN(64, BigInt(field)));
  const names: (keyof typeof REGISTERS)[] =
    fields.length === 3
      ? ['origRax', 'rsp', 'rip']
      : ['origRax', 'rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9', 'rsp', 'rip'];
  const found = Object.fromEntries(names.map((name) => [name, register(bytes, name).toString(16)]));
  const expected = Object.fromEntries(
    names.map((name, index) => [name, (fields[index] ?? 0n).toString(16)]),
  );
  expect({ tid, ...found }).toEqual({ tid, ...expected });
}
