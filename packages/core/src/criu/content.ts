/** What of an image goes to a CRIU directory, by the rules of CRIU. */
import { PAGE_BYTES } from '../image/layout.js';
import type { ManifestProcess, ManifestVma } from '../image/manifest.js';
import { addressOf, Mappings, pageOf } from '../image/mappings.js';
import { bytesOf, inside, joined, type PageSpan, spanOf } from '../image/page_spans.js';
import type { Image } from '../image/reader.js';

/** Pages to be written, numbered as a pagemap numbers them, and who reads them where. */
export interface StoredSpan extends PageSpan {
  pid: number;
  address: bigint;
}

/** Pages of the private mappings of a process, ascending by address. */
export function* privateSpans(
  image: Image,
  process: ManifestProcess,
  ownOnly: boolean,
): Generator<StoredSpan, void, undefined> {
  const { pid, vmas } = process;
  const mapped = [...joined(vmas.filter(({ shared }) => !shared).map(spanOfVma))];
  for (const span of joined(inside(storedOf(image, pid, ownOnly), mapped))) {
    yield { ...span, pid, address: addressOf(span.start) };
  }
}

/**
 * The objects that CRIU has a pagemap of, by inode: anonymous memory that is shared, and that of SysV.
 * Their pages count from the start of the object; each is there once, however often it is mapped.
 */
export function sharedObjects(image: Image, ownOnly: boolean): Map<bigint, StoredSpan[]> {
  const objects = new Map<bigint, StoredSpan[]>();
  for (const process of image.processes) {
    const { pid } = process;
    const { vmas, ranges } = new Mappings({ vmas: process.vmas.filter(isSharedAnonymous) });
    for (const { start, end } of inside(storedOf(image, pid, ownOnly), vmas.map(spanOfVma))) {
      const vma = vmas[ranges.lastFrom(start)] as ManifestVma;
      const shift = pageOf(vma.offset) - pageOf(vma.start);
      const object = objects.get(vma.inode) ?? [];
      objects.set(vma.inode, object);
      object.push({ start: start + shift, end: end + shift, pid, address: addressOf(start) });
    }
  }
  for (const [inode, spans] of objects) objects.set(inode, once(spans));
  return objects;
}

/** Names as proc_pid_maps(5) has them. */
function isSharedAnonymous({ shared, kind, path }: ManifestVma): boolean {
  if (!shared || kind !== 'shared-memory') return false;
  return path === '/dev/zero (deleted)' || path.startsWith('/SYSV');
}

function* storedOf(image: Image, pid: number, ownOnly: boolean) {
  for (const run of image.runs(pid)) {
    if (run.image === 0 || !ownOnly) yield spanOf(run);
  }
}

function spanOfVma({ start, end }: ManifestVma): PageSpan {
  return { start: pageOf(start), end: pageOf(end) };
}

/** Sorted by page, and without what another one has too. */
function once(spans: StoredSpan[]): StoredSpan[] {
  const kept: StoredSpan[] = [];
  let last = 0;
  for (const span of spans.sort((a, b) => a.start - b.start)) {
    const skip = Math.max(0, last - span.start);
    if (span.start + skip >= span.end) continue;
    const address = span.address + BigInt(skip * PAGE_BYTES);
    kept.push({ ...span, start: span.start + skip, address });
    last = span.end;
  }
  return kept;
}

/** The bytes of a span, in pieces. */
export function bytesIn(image: Image, span: StoredSpan): AsyncIterable<Uint8Array> {
  return image.chunks(span.pid, span.address, bytesOf(span));
}
