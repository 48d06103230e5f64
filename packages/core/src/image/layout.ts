/** Names and sizes that docs/image-format.md fixes. */

/** Format version that this package writes, and the only one that it reads. */
export const FORMAT_VERSION = 1;
export const MANIFEST_FILE = 'manifest.msgpack';
/** The manifest until it is whole and on the disk. */
export const MANIFEST_TEMPORARY_FILE = 'manifest.msgpack.tmp';
export const PAGE_BYTES = 4096;
export const PAGE_SHIFT = 12n;
/** A shard piece must be read whole to check it, so its size is memory that a reader needs. */
export const MAX_PIECE_BYTES = 64 * 1024 * 1024;
/** Records of a page table of 6 GiB, enough for 1 TiB of which every second page is stored. */
export const MAX_PAGE_TABLE_ENTRIES = 2 ** 28;
/** A reader holds all shards open. */
export const MAX_SHARDS = 1024;

const SHARD_FILE = /^shard-[0-9]{4}\.img$/;
const PAGE_TABLE_FILE = /^pages-[1-9][0-9]{0,9}\.tbl$/;

export function isShardFile(name: string): boolean {
  return SHARD_FILE.test(name);
}

export function pageTableFile(pid: number): string {
  return `pages-${pid}.tbl`;
}

/** Whether Sluice gives this name to a file of an image. */
export function isImageFile(name: string): boolean {
  return (
    SHARD_FILE.test(name) ||
    PAGE_TABLE_FILE.test(name) ||
    name === MANIFEST_FILE ||
    name === MANIFEST_TEMPORARY_FILE
  );
}
