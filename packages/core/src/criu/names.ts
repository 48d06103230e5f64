/** Names, magics and flags of CRIU's images. */

/** Starts an ordinary image, and is followed by a magic of its kind. */
export const COMMON_MAGIC = 0x5456_4319;
/** The same for statistics. */
export const SERVICE_MAGIC = 0x5510_5940;
/** Stands alone. */
export const INVENTORY_MAGIC = 0x5831_3116;
export const PAGEMAP_MAGIC = 0x5608_4025;
export const MM_MAGIC = 0x5749_2820;
export const FILES_MAGIC = 0x5630_3138;
export const MEMFD_MAGIC = 0x4845_3499;
export const STATS_MAGIC = 0x5709_3306;

export const PE_PARENT = 1;
export const PE_LAZY = 2;
export const PE_PRESENT = 4;

export const INVENTORY_FILE = 'inventory.img';
/** The inventory until it is whole and on the disk. */
export const INVENTORY_TEMPORARY_FILE = 'inventory.img.tmp';
export const STATS_FILE = 'stats-dump';
/** Open and mapped files of all processes. */
export const FILES_FILE = 'files.img';
/** What is behind those of them that are memfds. */
export const MEMFD_FILE = 'memfd.img';
/** Link to the directory that an image builds on. */
export const PARENT_LINK = 'parent';

const PAGEMAP_FILE = /^pagemap-([1-9][0-9]{0,9})\.img$/;
const SHMEM_FILE = /^pagemap-shmem-(0|[1-9][0-9]{0,19})\.img$/;
const PAGES_FILE = /^pages-[0-9]{1,10}\.img$/;

export function pagemapFile(pid: number): string {
  return `pagemap-${pid}.img`;
}

/** @param id Inode of the object that is shared. */
export function shmemFile(id: bigint): string {
  return `pagemap-shmem-${id}.img`;
}

export function pagesFile(id: number): string {
  return `pages-${id}.img`;
}

export function mmFile(pid: number): string {
  return `mm-${pid}.img`;
}

/** The pid of a pagemap's name, if it is one. */
export function pidOf(name: string): number | undefined {
  const pid = PAGEMAP_FILE.exec(name)?.[1];
  return pid === undefined ? undefined : Number(pid);
}

/** The object of the name of a pagemap of shared memory, if it is one. */
export function shmemOf(name: string): bigint | undefined {
  const id = SHMEM_FILE.exec(name)?.[1];
  return id === undefined ? undefined : BigInt(id);
}

/** Whether `writeCriuDirectory` gives this name to something. */
export function isCriuFile(name: string): boolean {
  return (
    [INVENTORY_FILE, INVENTORY_TEMPORARY_FILE, STATS_FILE, PARENT_LINK].includes(name) ||
    PAGEMAP_FILE.test(name) ||
    SHMEM_FILE.test(name) ||
    PAGES_FILE.test(name)
  );
}
