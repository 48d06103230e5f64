/** Which mappings a core holds: the rules of core(5) and of the kernel's vma_dump_size(). */
import type { ManifestVma } from '../image/manifest.js';

/** Bits of `/proc/PID/coredump_filter`. */
const ANONYMOUS_PRIVATE = 1 << 0;
const ANONYMOUS_SHARED = 1 << 1;
const FILE_PRIVATE = 1 << 2;
const FILE_SHARED = 1 << 3;
const ELF_HEADERS = 1 << 4;
const HUGETLB_PRIVATE = 1 << 5;
const HUGETLB_SHARED = 1 << 6;

/** That of a process that nobody gave another. */
export const DEFAULT_FILTER = 0x33;
/** All bits that the kernel knows; those of DAX are here, and mean nothing to an image. */
export const MOST_FILTER = 0x1ff;

/** `elf-header`: its first page, if that is the begin of an ELF file. */
export type Wanted = 'whole' | 'elf-header' | 'nothing';

/**
 * How much of a mapping a core holds.
 *
 * @param isWritten Whether the process has pages of its own there, which the kernel calls an anon_vma.
 */
export function wanted(vma: ManifestVma, filter: number, isWritten: boolean): Wanted {
  const { kind, shared, path, vmFlags } = vma;
  const flags = new Set(vmFlags.split(' '));
  const whole = (bit: number): Wanted => ((filter & bit) !== 0 ? 'whole' : 'nothing');
  if (kind === 'vdso') return 'whole';
  // The kernel writes these too, but nobody else can read them.
  if (/^\[(vvar|vsyscall|uprobes)/.test(path)) return 'nothing';
  if (flags.has('dd')) return 'nothing';
  if (flags.has('ht')) return whole(shared ? HUGETLB_SHARED : HUGETLB_PRIVATE);
  if (flags.has('io')) return 'nothing';
  if (shared) return whole(hasName(vma) ? FILE_SHARED : ANONYMOUS_SHARED);
  if (isWritten && (filter & ANONYMOUS_PRIVATE) !== 0) return 'whole';
  if (!isOfFile(vma)) return 'nothing';
  if ((filter & FILE_PRIVATE) !== 0) return 'whole';
  const isBegin = vma.offset === 0n && vma.protection.startsWith('r');
  return isBegin && (filter & ELF_HEADERS) !== 0 ? 'elf-header' : 'nothing';
}

/** Whether there is a file behind a mapping; it may have no name. */
export function isOfFile({ path }: ManifestVma): boolean {
  return path !== '' && !path.startsWith('[');
}

/** What has no name any more, or never had one, is anonymous to the kernel. */
function hasName(vma: ManifestVma): boolean {
  return isOfFile(vma) && !vma.path.endsWith(' (deleted)');
}
