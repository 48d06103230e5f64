/** Mappings of a process in CRIU's images: those that it had, or else just what is stored. */
import { corrupt } from '../image/faults.js';
import type { ManifestVma } from '../image/manifest.js';
import { addressOf } from '../image/mappings.js';
import { joined } from '../image/page_spans.js';
import { mm_entrySchema, type vma_entry, vma_entrySchema } from './images_pb.js';
import type { Memfds } from './memfds.js';
import { COMMON_MAGIC, FILES_FILE, MM_MAGIC } from './names.js';
import type { Pagemap } from './pagemap.js';
import { checkRequired, readOnlyMessage } from './records.js';

const MM = {
  magics: [COMMON_MAGIC, MM_MAGIC],
  schema: mm_entrySchema,
  mostBytes: 8 * 1024 * 1024,
};
const PAGE_MASK = 4095n;

/** What CRIU knows of a mapping, in the bits of its `status`. */
const STATUS = {
  stack: 1 << 1,
  vsyscall: 1 << 2,
  vdso: 1 << 3,
  heap: 1 << 5,
  filePrivate: 1 << 6,
  fileShared: 1 << 7,
  anonShared: 1 << 8,
  sysvipc: 1 << 10,
  socket: 1 << 11,
  vvar: 1 << 12,
  memfd: 1 << 14,
  guard: 1 << 16,
  uprobes: 1 << 17,
} as const;

const MAP_SHARED = 1;

/**
 * Those that `mm-PID.img` has; undefined if there is no such file, as in a pre-dump.
 *
 * @param memfds Of the same directory.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function readMappings(
  path: string,
  memfds: Memfds,
): Promise<ManifestVma[] | undefined> {
  const mm = await readOnlyMessage(path, MM);
  if (mm === undefined) return undefined;
  const { message, offset } = mm;
  for (const entry of message.vmas) checkRequired(vma_entrySchema, entry, path, offset);
  // Guards lie within other mappings, where they stand for pages without data.
  const entries = message.vmas.filter(({ status }) => (status & STATUS.guard) === 0);
  const files = entries.some(isMemfd) ? await memfds.read() : undefined;
  const vmas = entries.map((entry) => {
    if (files === undefined || !isMemfd(entry)) return vmaOf(entry);
    const memfd = files.get(entry.shmid);
    if (memfd === undefined) {
      throw corrupt(path, offset, `a mapping of memfd ${entry.shmid}, which ${FILES_FILE} has not`);
    }
    return { ...vmaOf(entry), kind: 'shared-memory' as const, ...memfd };
  });
  checkOrder(vmas, path, offset);
  return vmas;
}

/** One mapping for all adjacent pages that a pagemap names. */
export function mappingsOf(pagemap: Pagemap): ManifestVma[] {
  return [...joined(pagemap)].map(({ start, end }) => ({
    ...UNKNOWN_MAPPING,
    start: addressOf(start),
    end: addressOf(end),
  }));
}

/** What is taken for granted of a mapping of which only the addresses are known. */
export const UNKNOWN_MAPPING = {
  protection: 'rw-',
  shared: false,
  offset: 0n,
  device: '0:0',
  inode: 0n,
  path: '',
  kind: 'anonymous',
  leftOut: '',
  vmFlags: '',
  file: null,
} as const;

function vmaOf(entry: vma_entry): ManifestVma {
  const { start, end, pgoff, shmid, prot, flags } = entry;
  const letters = ['r', 'w', 'x'].map((letter, bit) => ((prot >> bit) & 1 ? letter : '-'));
  const shared = (flags & MAP_SHARED) !== 0;
  const what = { ...UNKNOWN_MAPPING, start, end, protection: letters.join(''), shared };
  return { ...what, ...contentOf(entry), offset: pgoff & ~PAGE_MASK, inode: shared ? shmid : 0n };
}

/** Of anonymous memory that is shared, too; private mappings of memfds are as those of any file. */
function isMemfd({ status }: vma_entry): boolean {
  const both = STATUS.fileShared | STATUS.memfd;
  return (status & both) === both;
}

/** The file behind a mapping is in other images, so its bytes cannot be had here. */
function contentOf({ status }: vma_entry): Pick<ManifestVma, 'kind' | 'path' | 'leftOut'> {
  const is = (bits: number) => (status & bits) !== 0;
  if (is(STATUS.vdso)) return { kind: 'vdso', path: '[vdso]', leftOut: '' };
  if (is(STATUS.vvar | STATUS.vsyscall | STATUS.uprobes | STATUS.socket)) {
    return { kind: 'excluded', path: '', leftOut: 'CRIU never stores it' };
  }
  if (is(STATUS.filePrivate)) return { kind: 'private-file', path: '', leftOut: '' };
  if (is(STATUS.fileShared | STATUS.memfd)) return { kind: 'shared-file', path: '', leftOut: '' };
  if (is(STATUS.sysvipc)) return { kind: 'shared-memory', path: '/SYSV (deleted)', leftOut: '' };
  if (is(STATUS.anonShared)) {
    return { kind: 'shared-memory', path: '/dev/zero (deleted)', leftOut: '' };
  }
  const path = is(STATUS.heap) ? '[heap]' : is(STATUS.stack) ? '[stack]' : '';
  return { kind: 'anonymous', path, leftOut: '' };
}

function checkOrder(vmas: readonly ManifestVma[], path: string, offset: number): void {
  let last = 0n;
  for (const { start, end } of vmas) {
    if (((start | end) & PAGE_MASK) !== 0n || start >= end || start < last) {
      throw corrupt(path, offset, 'mappings that are not ranges of pages in ascending order');
    }
    last = end;
  }
}
