/** How to read segments: pages of several rounds lie across each other in memory, and together in shards. */
import type { Segment } from './address_space.js';

/** Adjacent bytes of a shard. */
export interface ShardRead {
  image: number;
  shard: number;
  offset: number;
  bytes: number;
  /** What of it is wanted, ascending by offset. */
  parts: { offset: number; bytes: number; at: number }[];
}

/** So many bytes that nobody wants are read sooner than skipped. */
const MOST_GAP_BYTES = 32 * 1024;
/** Most bytes of a read with more than one part. */
export const MOST_GATHERED_BYTES = 2 * 1024 * 1024;

/** What to read for those segments that are in shards; `at` is where they are among all. */
export function gather(segments: Iterable<Segment>): ShardRead[] {
  const parts: ShardRead[] = [];
  let at = 0;
  for (const segment of segments) {
    const { bytes } = segment;
    if (segment.from === 'shard') {
      const { image, shard, offset } = segment;
      parts.push({ image, shard, offset, bytes, parts: [{ offset, bytes, at }] });
    }
    at += bytes;
  }
  if (parts.length <= 1) return parts;
  parts.sort((a, b) => a.image - b.image || a.shard - b.shard || a.offset - b.offset);
  const reads: ShardRead[] = [];
  for (const part of parts) {
    const last = reads.at(-1);
    const isSameShard = last?.image === part.image && last.shard === part.shard;
    // One of the two may lie within the other.
    const end =
      last === undefined ? 0 : Math.max(last.bytes, part.offset + part.bytes - last.offset);
    const isNear =
      isSameShard &&
      part.offset - (last.offset + last.bytes) <= MOST_GAP_BYTES &&
      end <= MOST_GATHERED_BYTES;
    if (!isNear) {
      reads.push(part);
      continue;
    }
    last.bytes = end;
    last.parts.push(...part.parts);
  }
  return reads;
}
