/** From what the native side counted to what goes into the image, and what the caller gets. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { machine, release } from 'node:os';
import type { CaptureResult, LaneAttached, SealedShard } from '@sluice/native';
import { hex } from '../image/faults.js';
import type { WriteImageOptions } from '../image/index.js';
import { type Captured, PIECE_BYTES } from './capture.js';
import type { ResolvedDumpOptions } from './options.js';
import type { DumpResult, LeftOut, RoundResult } from './result.js';

/** The result of a dump. */
export function summarize(
  { lanes, shards, result, attachUs, warnings }: Captured,
  pid: number,
  options: ResolvedDumpOptions,
  elapsedMs: number,
): DumpResult {
  const { kind, ...counted } = roundOf(result, shards);
  return {
    pid,
    dir: options.dir,
    ...counted,
    pages_skipped_parent: 0,
    pages_aliased: result.pagesAliased,
    attach_time: attachUs,
    attach_stopped_time: Math.round(sum(lanes, ({ stoppedUs }) => stoppedUs)),
    checksum_time: longest(shards, ({ checksumUs }) => checksumUs),
    sync_time: longest(shards, ({ syncUs }) => syncUs),
    total_time: Math.round(elapsedMs * 1000),
    capture: backendOf(lanes),
    capture_reason: firstReason(lanes.map(({ fallbackReason }) => fallbackReason)),
    io: shards.every(({ io }) => io === 'direct') ? 'direct' : 'buffered',
    io_reason: firstReason(shards.map(({ ioReason }) => ioReason)),
    checksum: options.checksum,
    lanes: lanes.length,
    shards: shards.length,
    pinned_peak_bytes: result.pinnedPeakBytes,
    left_out: leftOutOf(result),
    warnings: [...result.warnings, ...warnings],
    rounds: [{ kind, ...counted }],
  };
}

/** What the image is made of, beside its shards. */
export function imageOf(
  { target, lanes, shards, result }: Captured,
  pid: number,
  dir: string,
  { checksum }: ResolvedDumpOptions,
): WriteImageOptions {
  const { namespacePid, name, commandLine, executable, startTimeTicks } = target;
  const { vmas, threads, leftOut, pageTable } = result;
  const {
    kind,
    pages_written,
    bytes_written,
    pages_scanned: _,
    ...times
  } = roundOf(result, shards);
  return {
    dir,
    producer: producer(),
    createdNs: BigInt(Date.now()) * 1_000_000n,
    kernel: { release: release(), machine: machine() },
    consistency: 'frozen',
    session: randomBytes(16).toString('hex'),
    round: 1,
    parent: null,
    capture: backendOf(lanes),
    checksum,
    pieceBytes: PIECE_BYTES,
    shards,
    processes: [
      {
        pid,
        namespacePid,
        name,
        commandLine,
        executable,
        startTimeTicks,
        vmas,
        threads,
        leftOut,
        pageTable,
      },
    ],
    rounds: [{ kind, pagesWritten: pages_written, bytesWritten: bytes_written, times }],
  };
}

function producer(): { name: string; version: string } {
  const file = new URL('../../package.json', import.meta.url);
  const { name, version } = JSON.parse(readFileSync(file, 'utf8'));
  return { name, version };
}

/** The backend that the image is said to be made with: vmsplice only if every lane used it. */
function backendOf(lanes: readonly LaneAttached[]): 'vmsplice' | 'read' {
  return lanes.every(({ backend }) => backend === 'vmsplice') ? 'vmsplice' : 'read';
}

function roundOf(result: CaptureResult, shards: readonly SealedShard[]): RoundResult {
  return {
    kind: 'final',
    pages_written: result.pagesWritten,
    bytes_written: sum(shards, ({ bytes }) => bytes),
    pages_scanned: result.pagesScanned,
    freezing_time: Math.round(result.freezingUs),
    frozen_time: Math.round(result.frozenUs),
    memdump_time: Math.round(result.memdumpUs),
    memwrite_time: Math.round(result.memwriteUs),
  };
}

/** Whole mappings and single ranges, in the order of their addresses. */
function leftOutOf({ vmas, leftOut }: CaptureResult): LeftOut[] {
  const excluded = vmas
    .filter(({ kind }) => kind === 'excluded')
    .map(({ start, end, leftOut: reason }) => ({ start, end, reason }));
  return [...excluded, ...leftOut]
    .sort((a, b) => (a.start < b.start ? -1 : 1))
    .map(({ start, end, reason }) => ({ start: hex(start), end: hex(end), reason }));
}

function firstReason(reasons: readonly string[]): string {
  return reasons.find((reason) => reason !== '') ?? '';
}

function sum<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}

function longest<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return Math.round(Math.max(0, ...items.map(value)));
}
