import * as v from 'valibot';
import {
  MAX_PAGE_TABLE_ENTRIES,
  MAX_PIECE_BYTES,
  MAX_SHARDS,
  PAGE_BYTES,
  PARENT_PATH,
} from './layout.js';
import { type Manifest, ManifestFault } from './manifest.js';

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const pid = v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(2 ** 31 - 1));
const u32 = v.pipe(count, v.maxValue(2 ** 32 - 1));
const u64 = v.pipe(v.bigint(), v.minValue(0n), v.maxValue(2n ** 64n - 1n));
const short = v.pipe(v.string(), v.maxLength(256));
const text = v.pipe(v.string(), v.maxLength(4096));
// A path has up to 4096 bytes, of which maps prints some as `\012`.
const path = v.pipe(v.string(), v.maxLength(20_000));
const bytes = v.instance(Uint8Array);

const file = v.strictObject({
  path: v.pipe(path, v.startsWith('/'), v.excludes('\0')),
  device: u64,
  inode: u64,
  bytes: u64,
  modifiedNs: v.bigint(),
  changedNs: v.bigint(),
});

const vma = v.strictObject({
  start: u64,
  end: u64,
  protection: v.pipe(v.string(), v.regex(/^[r-][w-][x-]$/)),
  shared: v.boolean(),
  offset: u64,
  device: v.pipe(short, v.regex(/^[0-9a-f]+:[0-9a-f]+$/)),
  inode: u64,
  path,
  kind: v.picklist([
    'anonymous',
    'private-file',
    'shared-file',
    'shared-memory',
    'deleted-file',
    'vdso',
    'excluded',
  ]),
  leftOut: text,
  vmFlags: text,
  file: v.nullable(file),
});

const process = v.strictObject({
  pid,
  namespacePid: pid,
  name: short,
  commandLine: v.array(v.string()),
  executable: path,
  startTimeTicks: u64,
  vmas: v.array(vma),
  threads: v.array(
    v.strictObject({ tid: pid, name: short, registers: v.pipe(bytes, v.maxLength(4096)) }),
  ),
  leftOut: v.array(v.strictObject({ start: u64, end: u64, reason: text })),
  pageTable: v.strictObject({
    file: short,
    entries: v.pipe(count, v.maxValue(MAX_PAGE_TABLE_ENTRIES)),
    crc32c: u32,
  }),
  pagesStored: count,
  pagesInParent: count,
});

const manifest: v.GenericSchema<unknown, Manifest> = v.strictObject({
  producer: v.strictObject({ name: short, version: short }),
  createdNs: u64,
  kernel: v.strictObject({ release: short, machine: short }),
  pageSizeBytes: v.literal(PAGE_BYTES),
  consistency: v.picklist(['frozen', 'live']),
  session: v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/)),
  round: v.pipe(count, v.minValue(1)),
  parent: v.nullable(v.pipe(v.string(), v.regex(PARENT_PATH))),
  capture: v.picklist(['vmsplice', 'read']),
  checksum: v.picklist(['crc32c', 'none']),
  pieceBytes: v.pipe(count, v.multipleOf(PAGE_BYTES), v.maxValue(MAX_PIECE_BYTES)),
  shards: v.pipe(
    v.array(v.strictObject({ file: short, bytes: u64, crcs: bytes })),
    v.maxLength(MAX_SHARDS),
  ),
  processes: v.pipe(v.array(process), v.minLength(1)),
  rounds: v.pipe(
    v.array(
      v.strictObject({
        kind: v.picklist(['live', 'final']),
        pagesWritten: count,
        bytesWritten: count,
        times: v.record(short, v.pipe(v.number(), v.finite(), v.minValue(0))),
      }),
    ),
    v.minLength(1),
  ),
});

/** @throws ManifestFault naming the first value of a wrong type or out of bounds. */
export function parseManifest(value: unknown): Manifest {
  // One fault is enough, and a hostile manifest could have millions.
  const result = v.safeParse(manifest, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const keys = issue.path?.map(({ key }) => (typeof key === 'number' ? key : String(key)));
  throw new ManifestFault(keys ?? [], issue.message);
}
