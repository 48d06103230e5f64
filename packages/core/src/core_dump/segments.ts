/** From the mappings of a process to the segments of its core. */
import type { AddressRange } from '../image/address_range.js';
import { checkBackingFile } from '../image/backing_file.js';
import { PAGE_BYTES } from '../image/layout.js';
import type { ManifestLeftOut, ManifestProcess, ManifestVma } from '../image/manifest.js';
import type { Image } from '../image/reader.js';
import { wanted } from './filter.js';

/** Addresses that follow one another in the core, too. */
export interface CoreSegment extends AddressRange {
  /** Like `r-x`. */
  protection: string;
  /** The core holds the bytes from `start` up to here. */
  storedEnd: bigint;
}

export interface CorePlan {
  /** Ascending; together they are all mappings. */
  segments: CoreSegment[];
  /** Wanted, and not to be had. */
  leftOut: ManifestLeftOut[];
}

const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1');

/**
 * A segment for each mapping. A mapping of which parts cannot be had is in several, so that the core does
 * not say that those parts were zeros.
 */
export async function planSegments(
  image: Image,
  { pid, vmas }: ManifestProcess,
  filter: number,
): Promise<CorePlan> {
  const plan: CorePlan = { segments: [], leftOut: [] };
  const files = new Map<string, string>();
  for (const vma of vmas) {
    const want = wanted(vma, filter, isWritten(image, pid, vma));
    if (want === 'whole') await addWhole(plan, image, pid, vma, files);
    else {
      const storedBytes = want === 'elf-header' && (await isElf(image, pid, vma)) ? PAGE_BYTES : 0;
      plan.segments.push(segmentOf(vma, vma, vma.start + BigInt(storedBytes)));
    }
  }
  return plan;
}

/** The parts of what a segment stores that are more than zeros, in pieces of at most `most` bytes. */
export function* filledPieces(
  image: Image,
  pid: number,
  { start, storedEnd }: CoreSegment,
  most: number,
): Generator<{ address: bigint; bytes: number }, void, undefined> {
  for (const filled of joined(image.stretches(pid, { start, end: storedEnd }))) {
    let address = filled.start;
    while (address < filled.end) {
      const bytes = Math.min(most, Number(filled.end - address));
      yield { address, bytes };
      address += BigInt(bytes);
    }
  }
}

function* joined(stretches: ReturnType<Image['stretches']>): Generator<AddressRange> {
  let last: AddressRange | undefined;
  for (const { start, end, source } of stretches) {
    if (source.from === 'zeros') continue;
    if (last?.end === start) {
      last.end = end;
      continue;
    }
    if (last !== undefined) yield last;
    last = { start, end };
  }
  if (last !== undefined) yield last;
}

/** Whether the process has pages of its own there. */
function isWritten(image: Image, pid: number, vma: ManifestVma): boolean {
  for (const { source } of image.stretches(pid, vma)) {
    if (source.from === 'shard') return true;
  }
  return false;
}

async function addWhole(
  plan: CorePlan,
  image: Image,
  pid: number,
  vma: ManifestVma,
  files: Map<string, string>,
): Promise<void> {
  let last: CoreSegment | undefined;
  for (const { start, end, source } of image.stretches(pid, vma)) {
    let reason: string | undefined;
    if (source.from === 'nowhere') reason = source.reason;
    if (source.from === 'file') reason = await changeOf(source.file, files);
    if (reason !== undefined) plan.leftOut.push({ start, end, reason });
    const isStored = reason === undefined;
    if (last === undefined || (last.storedEnd === last.end) !== isStored) {
      last = segmentOf(vma, { start, end }, start);
      plan.segments.push(last);
    }
    last.end = end;
    if (isStored) last.storedEnd = end;
  }
}

function segmentOf(
  { protection }: ManifestVma,
  { start, end }: AddressRange,
  storedEnd: bigint,
): CoreSegment {
  return { start, end, protection, storedEnd };
}

/** Whether a mapping has the begin of an ELF file, by which a debugger knows the build of that file. */
async function isElf(image: Image, pid: number, vma: ManifestVma): Promise<boolean> {
  const begin = new Uint8Array(ELF_MAGIC.length);
  // If that cannot be read, neither can the page.
  await image.readInto(pid, vma.start, begin).catch(() => undefined);
  return ELF_MAGIC.equals(begin);
}

/** Why a file cannot serve; undefined if it can. */
async function changeOf(
  file: NonNullable<ManifestVma['file']>,
  known: Map<string, string>,
): Promise<string | undefined> {
  let change = known.get(file.path);
  if (change === undefined) {
    change = await checkBackingFile(file).then(
      () => '',
      (error: Error) => error.message,
    );
    known.set(file.path, change);
  }
  return change === '' ? undefined : change;
}
