/** From what the native side counted to what goes into the image, and what the caller gets. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { machine, release } from 'node:os';
import type { LaneAttached, RoundCaptured } from '@sluice/native';
import { hex } from '../image/faults.js';
import { type ManifestRound, roundDir, type WriteImageOptions } from '../image/index.js';
import { type Captured, type CapturedRound, PIECE_BYTES } from './capture.js';
import { HeldTarget } from './held.js';
import type { ResolvedDumpOptions } from './options.js';
import type { DumpResult, LeftOut, RoundResult } from './result.js';

/** The result of a dump. */
export function summarize(
  { target: _, lanes, tracker, rounds, attachUs, warnings, held }: Captured,
  pid: number,
  options: ResolvedDumpOptions,
  elapsedMs: number,
): DumpResult {
  const figures = rounds.map(roundOf);
  const final = finalOf(rounds);
  const { kind, start_time, scan_time, pages_scanned, ...ofFinal } = roundOf(final);
  const shards = rounds.flatMap((round) => round.shards);
  return {
    pid,
    dir: options.dir,
    ...ofFinal,
    pages_written: sum(figures, (round) => round.pages_written),
    bytes_written: sum(figures, (round) => round.bytes_written),
    pages_scanned: sum(figures, (round) => round.pages_scanned),
    pages_aliased: final.captured.pagesAliased,
    attach_time: attachUs,
    attach_stopped_time: Math.round(sum(lanes, ({ stoppedUs }) => stoppedUs)),
    checksum_time: sum(rounds, (round) => longest(round.shards, ({ checksumUs }) => checksumUs)),
    sync_time: sum(rounds, (round) => longest(round.shards, ({ syncUs }) => syncUs)),
    total_time: Math.round(elapsedMs * 1000),
    capture: backendOf(lanes),
    capture_reason: firstReason(lanes.map(({ fallbackReason }) => fallbackReason)),
    tracker: tracker.tracker,
    tracker_reason: tracker.reason,
    ...consistencyOf(final, options),
    io: shards.every(({ io }) => io === 'direct') ? 'direct' : 'buffered',
    io_reason: firstReason(shards.map(({ ioReason }) => ioReason)),
    checksum: options.checksum,
    lanes: lanes.length,
    shards: final.shards.length,
    pinned_peak_bytes: Math.max(...rounds.map(({ captured }) => captured.pinnedPeakBytes)),
    left_out: leftOutOf(final.captured),
    warnings: [...final.captured.warnings, ...warnings],
    rounds: figures,
    held: held === undefined ? null : new HeldTarget(held),
  };
}

/** What the images are made of, beside their shards: those of live rounds first. */
export function* imagesOf(
  { target, lanes, rounds }: Captured,
  pid: number,
  { checksum }: ResolvedDumpOptions,
): Generator<WriteImageOptions> {
  const { namespacePid, name, commandLine, executable, startTimeTicks } = target;
  const session = randomBytes(16).toString('hex');
  const createdNs = BigInt(Date.now()) * 1_000_000n;
  const figures = rounds.map((round) => manifestRoundOf(roundOf(round)));
  for (const [index, { kind, dir, captured, shards }] of rounds.entries()) {
    const { vmas, threads, state, leftOut, pageTable } = captured;
    const below = index === 0 ? null : roundDir(index);
    yield {
      dir,
      producer: producer(),
      createdNs,
      kernel: { release: release(), machine: machine() },
      consistency: kind === 'live' ? 'live' : 'frozen',
      session,
      round: index + 1,
      parent: below === null || kind === 'final' ? below : `../${below}`,
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
          state,
          leftOut,
          pageTable,
        },
      ],
      rounds: figures.slice(0, index + 1),
    };
  }
}

/** The last of `imagesOf`. */
export function finalImageOf(
  captured: Captured,
  pid: number,
  options: ResolvedDumpOptions,
): WriteImageOptions {
  return [...imagesOf(captured, pid, options)].at(-1) as WriteImageOptions;
}

function consistencyOf(
  { captured }: CapturedRound,
  { after, consistency }: ResolvedDumpOptions,
): Pick<DumpResult, 'consistency' | 'consistency_reason'> {
  if (after === 'stop') {
    return { consistency: 'stop', consistency_reason: 'it stays stopped' };
  }
  return {
    consistency: captured.consistency,
    consistency_reason:
      captured.consistencyReason || (consistency === 'copy' ? 'as asked for' : ''),
  };
}

function finalOf(rounds: Captured['rounds']): CapturedRound {
  return rounds[rounds.length - 1] ?? rounds[0];
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

function roundOf({ kind, captured, startMs, shards }: CapturedRound): RoundResult {
  return {
    kind,
    pages_written: captured.pagesWritten,
    bytes_written: sum(shards, ({ bytes }) => bytes),
    pages_scanned: captured.pagesScanned,
    pages_skipped_parent: captured.pagesInParent,
    start_time: Math.round(startMs * 1000),
    scan_time: Math.round(captured.scanUs),
    freezing_time: Math.round(captured.freezingUs),
    frozen_time: Math.round(captured.frozenUs),
    memdump_time: Math.round(captured.memdumpUs),
    memwrite_time: Math.round(captured.memwriteUs),
  };
}

function manifestRoundOf(round: RoundResult): ManifestRound {
  const { kind, pages_written, bytes_written, pages_scanned: _, ...rest } = round;
  const { pages_skipped_parent: __, ...times } = rest;
  return { kind, pagesWritten: pages_written, bytesWritten: bytes_written, times };
}

/** Whole mappings and single ranges, in the order of their addresses. */
function leftOutOf({ vmas, leftOut }: RoundCaptured): LeftOut[] {
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
