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

const MAX_EXTENDED_BYTES = 65_536;

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

const thread = v.strictObject({
  tid: pid,
  // 0 of a thread that ended before it could be asked.
  namespaceTid: v.pipe(count, v.maxValue(2 ** 31 - 1)),
  name: short,
  registers: v.pipe(bytes, v.maxLength(4096)),
  extendedRegisters: v.pipe(bytes, v.maxLength(MAX_EXTENDED_BYTES)),
  signalMask: u64,
  pendingSignals: u64,
  robustList: u64,
  rseq: v.nullable(v.strictObject({ address: u64, bytes: u32, signature: u32 })),
});

const signalAction = v.strictObject({
  signal: v.pipe(count, v.minValue(1), v.maxValue(64)),
  handler: u64,
  flags: u64,
  restorer: u64,
  mask: u64,
});

// Other bits of XCR0 stand for the legacy area and another format. A thread has no more registers than that.
const extendedFeature = v.strictObject({
  number: v.pipe(count, v.minValue(2), v.maxValue(62)),
  bytes: v.pipe(count, v.maxValue(MAX_EXTENDED_BYTES)),
  offset: v.pipe(count, v.maxValue(MAX_EXTENDED_BYTES)),
});

const ids = v.pipe(v.array(u32), v.length(4));

const state = v.strictObject({
  parentPid: count,
  processGroup: count,
  sessionLeader: count,
  nice: v.pipe(v.number(), v.safeInteger(), v.minValue(-20), v.maxValue(19)),
  flags: u64,
  userIds: ids,
  groupIds: ids,
  supplementaryGroups: v.array(u32),
  capabilities: v.strictObject({
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
  }),
  noNewPrivileges: v.boolean(),
  seccompMode: v.picklist([0, 1, 2]),
  limits: v.array(v.strictObject({ name: short, soft: u64, hard: u64 })),
  auxiliaryVector: v.pipe(bytes, v.maxLength(65_536)),
  addresses: v.strictObject({
    startCode: u64,
    endCode: u64,
    startStack: u64,
    startData: u64,
    endData: u64,
    startBreak: u64,
    argumentsStart: u64,
    argumentsEnd: u64,
    environmentStart: u64,
    environmentEnd: u64,
  }),
  programBreak: u64,
  pendingSignals: u64,
  ignoredSignals: u64,
  caughtSignals: u64,
  signalActions: v.nullable(v.pipe(v.array(signalAction), v.maxLength(64))),
  // Images of version 3 that were made before cores told it have none.
  extendedLayout: v.optional(v.pipe(v.array(extendedFeature), v.maxLength(61)), () => []),
  umask: u32,
  workingDirectory: path,
  root: path,
  descriptors: v.array(v.strictObject({ descriptor: u32, path, position: u64, flags: u32 })),
});

const process = v.strictObject({
  pid,
  namespacePid: pid,
  name: short,
  commandLine: v.array(v.string()),
  executable: path,
  startTimeTicks: u64,
  vmas: v.array(vma),
  threads: v.array(thread),
  state: v.nullable(state),
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
