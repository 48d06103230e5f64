/** Compares an image with the memory of a process that has not moved since it was dumped. */
import { type Image, type ManifestVma, SluiceError } from '@sluice/core';
import { PAGE_BYTES, type StoppedProcess } from './stopped-process.js';

const BLOCK_PAGES = 512;
const MOST_DIFFERENCES = 5;
const RSEQ_BYTES = 32;
const MOST_CPUS = 8192;

export interface Comparison {
  /** Bytes that are the same in both. */
  bytes: number;
  /** Threads of which the kernel has noted another CPU since; at most each of them once. */
  cpuNumbers: number;
  /** Empty if all is the same; the first few if not. */
  differences: string[];
}

interface Range {
  start: bigint;
  end: bigint;
}

/**
 * Compares the mappings, and byte for byte all pages that exist or that belong to a file. Of pages that
 * do not exist there is nothing to compare, and reading would create them.
 */
export async function compare(image: Image, process: StoppedProcess): Promise<Comparison> {
  const { pid } = process;
  const noted = image.processes.find((candidate) => candidate.pid === pid);
  if (noted === undefined) throw new Error(`The image does not hold process ${pid}`);
  const result: Comparison = { bytes: 0, cpuNumbers: 0, differences: [] };
  const mappings = noted.vmas.map(describe).join('\n');
  if (mappings !== process.mappings().join('\n')) result.differences.push('the mappings differ');
  for (const vma of noted.vmas) {
    if (vma.kind === 'excluded') continue;
    for (const range of existingRanges(vma, process)) {
      if (result.differences.length >= MOST_DIFFERENCES) return result;
      if (noted.leftOut.some((out) => out.start < range.end && out.end > range.start)) continue;
      await compareRange(image, process, range, result);
    }
  }
  if (result.cpuNumbers > noted.threads.length) result.differences.push('too many CPU numbers');
  return result;
}

async function compareRange(
  image: Image,
  process: StoppedProcess,
  { start, end }: Range,
  result: Comparison,
): Promise<void> {
  const bytes = Number(end - start);
  const [is, was] = [process.read(start, bytes), await readImage(image, process.pid, start, bytes)];
  if (is !== undefined && was !== undefined && is.equals(was)) {
    result.bytes += bytes;
  } else if (bytes > PAGE_BYTES) {
    // Page by page, to find out which of them it is.
    for (let page = start; page < end; page += BigInt(PAGE_BYTES)) {
      await compareRange(image, process, { start: page, end: page + BigInt(PAGE_BYTES) }, result);
    }
  } else if (is !== undefined && was !== undefined) {
    const cpuNumbers = countCpuNumbers(is, was);
    if (cpuNumbers === undefined) result.differences.push(`0x${start.toString(16)} differs`);
    result.cpuNumbers += cpuNumbers ?? 0;
  } else if (is !== undefined || was !== undefined) {
    const owner = is !== undefined ? 'process' : 'image';
    result.differences.push(`0x${start.toString(16)} is only in the ${owner}`);
  }
}

/**
 * In how many `struct rseq` (rseq(2)) two pages differ; undefined if they differ in anything else. The
 * kernel notes there on which CPU a thread runs, also when the thread itself does nothing.
 */
function countCpuNumbers(is: Buffer, was: Buffer): number | undefined {
  let found = 0;
  for (let at = 0; at < is.length; at += RSEQ_BYTES) {
    const [a, b] = [is.subarray(at, at + RSEQ_BYTES), was.subarray(at, at + RSEQ_BYTES)];
    if (a.equals(b)) continue;
    if (!isRseq(a) || !isRseq(b) || !sameCriticalSection(a, b)) return undefined;
    found += 1;
  }
  return found;
}

/** cpu_id_start and cpu_id of a thread that is in no critical section are the same small number. */
function isRseq(bytes: Buffer): boolean {
  const cpu = bytes.readUInt32LE(0);
  return cpu < MOST_CPUS && bytes.readUInt32LE(4) === cpu && bytes.readUInt32LE(24) < MOST_CPUS;
}

/** rseq_cs and flags: what is not a number of a CPU or of its node. */
function sameCriticalSection(a: Buffer, b: Buffer): boolean {
  return a.subarray(8, 20).equals(b.subarray(8, 20)) && a.subarray(28).equals(b.subarray(28));
}

/** Undefined where the image says that it has nothing. */
async function readImage(
  image: Image,
  pid: number,
  address: bigint,
  bytes: number,
): Promise<Buffer | undefined> {
  try {
    const read = await image.read(pid, address, bytes);
    return Buffer.from(read.buffer, read.byteOffset, read.byteLength);
  } catch (error) {
    if (SluiceError.isSluiceError(error) && error.code === 'ERR_SLUICE_LEFT_OUT') return undefined;
    throw error;
  }
}

function* existingRanges(vma: ManifestVma, process: StoppedProcess): Generator<Range> {
  const pageBytes = BigInt(PAGE_BYTES);
  for (let at = vma.start; at < vma.end; at += BigInt(BLOCK_PAGES) * pageBytes) {
    const pages = Math.min(BLOCK_PAGES, Number((vma.end - at) / pageBytes));
    const exists = process.existing(at, pages).map((existing) => existing || vma.file !== null);
    for (let from = exists.indexOf(true); from >= 0; ) {
      const after = exists.indexOf(false, from);
      const to = after < 0 ? pages : after;
      yield { start: at + BigInt(from) * pageBytes, end: at + BigInt(to) * pageBytes };
      from = exists.indexOf(true, to);
    }
  }
}

function describe({ start, end, protection, shared }: ManifestVma): string {
  const hex = (address: bigint) => address.toString(16).padStart(8, '0');
  return `${hex(start)}-${hex(end)} ${protection}${shared ? 's' : 'p'}`;
}
