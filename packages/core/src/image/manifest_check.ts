import { isShardFile, PAGE_BYTES, pageTableFile } from './layout.js';
import {
  type Consistency,
  type Manifest,
  ManifestFault,
  type ManifestPath,
  type ManifestProcess,
  type ManifestRound,
  type ManifestShard,
} from './manifest.js';

const PAGE_MASK = BigInt(PAGE_BYTES - 1);

/** @throws ManifestFault if the values, each valid alone, contradict one another. */
export function checkManifest(manifest: Manifest): void {
  const { checksum, pieceBytes, shards, processes, rounds, consistency } = manifest;
  if ((checksum === 'none') !== (pieceBytes === 0)) {
    throw new ManifestFault(['pieceBytes'], `is ${pieceBytes} with checksum ${checksum}`);
  }
  refuseRepeated(shards, (shard) => shard.file, ['shards'], 'file');
  shards.forEach((shard, i) => {
    checkShard(shard, pieceBytes, ['shards', i]);
  });
  refuseRepeated(processes, (process) => process.pid, ['processes'], 'pid');
  processes.forEach((process, i) => {
    checkProcess(process, ['processes', i]);
  });
  checkRounds(rounds, consistency);
}

function checkShard({ file, bytes, crcs }: ManifestShard, pieceBytes: number, at: ManifestPath) {
  if (!isShardFile(file)) {
    throw new ManifestFault([...at, 'file'], `${JSON.stringify(file)} is no name of a shard`);
  }
  if (bytes % BigInt(PAGE_BYTES) !== 0n || bytes > Number.MAX_SAFE_INTEGER) {
    throw new ManifestFault([...at, 'bytes'], `${bytes} cannot be the size of a shard`);
  }
  const pieces = pieceBytes === 0 ? 0 : Math.ceil(Number(bytes) / pieceBytes);
  if (crcs.length !== 4 * pieces) {
    throw new ManifestFault([...at, 'crcs'], `${crcs.length} bytes for ${pieces} pieces`);
  }
}

function checkProcess(process: ManifestProcess, at: ManifestPath): void {
  const { pid, vmas, leftOut, pageTable } = process;
  checkRanges(vmas, [...at, 'vmas']);
  vmas.forEach(({ offset }, i) => {
    if ((offset & PAGE_MASK) !== 0n) {
      throw new ManifestFault([...at, 'vmas', i, 'offset'], 'is not a multiple of a page');
    }
  });
  checkRanges(leftOut, [...at, 'leftOut']);
  const layout = process.state?.extendedLayout ?? [];
  refuseRepeated(layout, ({ number }) => number, [...at, 'state', 'extendedLayout'], 'number');
  if (pageTable.file !== pageTableFile(pid)) {
    const name = JSON.stringify(pageTable.file);
    throw new ManifestFault([...at, 'pageTable', 'file'], `${name} is not ${pageTableFile(pid)}`);
  }
}

/** The process stands still for the last round only, and for that only if the image is a frozen one. */
function checkRounds(rounds: readonly ManifestRound[], consistency: Consistency): void {
  rounds.forEach(({ kind }, i) => {
    const final = consistency === 'frozen' && i === rounds.length - 1;
    if ((kind === 'final') !== final) {
      throw new ManifestFault(['rounds', i, 'kind'], `${kind} cannot be here`);
    }
  });
}

function checkRanges(ranges: readonly { start: bigint; end: bigint }[], at: ManifestPath): void {
  let last = 0n;
  ranges.forEach(({ start, end }, i) => {
    if (((start | end) & PAGE_MASK) !== 0n) {
      throw new ManifestFault([...at, i], 'is not a range of whole pages');
    }
    if (start >= end) throw new ManifestFault([...at, i], 'ends before it starts');
    if (start < last) throw new ManifestFault([...at, i], 'overlaps the one before or is below it');
    last = end;
  });
}

function refuseRepeated<T>(
  list: readonly T[],
  keyOf: (item: T) => string | number,
  at: ManifestPath,
  name: string,
): void {
  const seen = new Set<string | number>();
  list.forEach((item, i) => {
    const key = keyOf(item);
    if (seen.has(key)) throw new ManifestFault([...at, i, name], `${key} is there twice`);
    seen.add(key);
  });
}
