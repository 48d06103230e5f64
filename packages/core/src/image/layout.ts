/** Names and sizes that docs/image-format.md fixes. */

/** Format version that this package writes, and the only one that it reads. */
export const FORMAT_VERSION = 3;
export const MANIFEST_FILE = 'manifest.msgpack';
/** The manifest until it is whole and on the disk. */
export const MANIFEST_TEMPORARY_FILE = 'manifest.msgpack.tmp';
export const PAGE_BYTES = 4096;
export const PAGE_SHIFT = 12n;
/** A shard piece must be read whole to check it, so its size is memory that a reader needs. */
export const MAX_PIECE_BYTES = 64 * 1024 * 1024;
/** Records of a page table of 6 GiB, enough for 1 TiB of which every second page is stored. */
export const MAX_PAGE_TABLE_ENTRIES = 2 ** 28;
/** A reader holds all shards open; as many in an image alone as in its whole chain. */
export const MAX_SHARDS = 1024;
/** Images of a chain, the newest one counted. */
export const MAX_CHAIN_IMAGES = 256;
/** Highest number that a round's directory can have. */
export const MAX_ROUND = 9999;
/** In place of a shard in a page table: the pages are in the chain below. */
export const IN_PARENT = 0xffff_ffff;

const SHARD_FILE = /^shard-[0-9]{4}\.img$/;
/** How an image names its parent. */
export const PARENT_PATH = /^(?:\.\.\/)?round-(?!0000)[0-9]{4}$/;

const ROUND_DIR = /^round-(?!0000)[0-9]{4}$/;
const PAGE_TABLE_FILE = /^pages-[1-9][0-9]{0,9}\.tbl$/;

export function shardFile(shard: number): string {
  return `shard-${String(shard).padStart(4, '0')}.img`;
}

export function isShardFile(name: string): boolean {
  return SHARD_FILE.test(name);
}

/** Directory of a live round, in that of its session. */
export function roundDir(round: number): string {
  return `round-${String(round).padStart(4, '0')}`;
}

export function isRoundDir(name: string): boolean {
  return ROUND_DIR.test(name);
}

export function pageTableFile(pid: number): string {
  return `pages-${pid}.tbl`;
}

/** Whether Sluice gives this name to a file of an image; the directories of rounds are not files. */
export function isImageFile(name: string): boolean {
  return (
    SHARD_FILE.test(name) ||
    PAGE_TABLE_FILE.test(name) ||
    name === MANIFEST_FILE ||
    name === MANIFEST_TEMPORARY_FILE
  );
}
