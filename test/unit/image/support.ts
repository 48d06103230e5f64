/** What the image tests share: naive checksums and encoders, and a small image to damage. */
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Manifest,
  openImage,
  type WriteImageOptions,
  type WriteImageProcess,
  writeImage,
} from '@sluice/core/image';
import type { CapturedState, CapturedThread, CapturedVma, NativeFile } from '@sluice/native';
import { onTestFinished } from 'vitest';

export const PAGE = 4096;
export const PIECE = 2 * PAGE;
export const SESSION = '0123456789abcdef'.repeat(2);

/** CRC32C of each byte alone, bit by bit from the polynomial. */
const CRC_OF_BYTE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  return crc;
});

export function naiveCrc32c(bytes: Uint8Array, seed: number): number {
  let crc = ~seed;
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC_OF_BYTE[(crc ^ byte) & 0xff] ?? 0);
  return ~crc >>> 0;
}

export const open = (dir: string) => openImage(dir, { crc32c: naiveCrc32c });

/** A new directory that goes away with the test. */
export async function temporaryDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-image-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Bytes that differ from page to page and within a page. */
export function pattern(bytes: number, seed: number): Uint8Array {
  let state = (seed + 1) * 2654435761;
  return Uint8Array.from({ length: bytes }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

export function crcsOf(bytes: Uint8Array, pieceBytes: number): Uint32Array {
  const pieces = Math.ceil(bytes.length / pieceBytes);
  return Uint32Array.from({ length: pieces }, (_, i) =>
    naiveCrc32c(bytes.subarray(i * pieceBytes, (i + 1) * pieceBytes), 0),
  );
}

export interface TestRecord {
  address: bigint;
  pages: number;
  shard: number;
  offset: number;
}

export function pageTableOf(records: readonly TestRecord[]): Uint8Array {
  const bytes = new Uint8Array(24 * records.length);
  const view = new DataView(bytes.buffer);
  records.forEach(({ address, pages, shard, offset }, i) => {
    view.setBigUint64(24 * i, address, true);
    view.setUint32(24 * i + 8, pages, true);
    view.setUint32(24 * i + 12, shard, true);
    view.setBigUint64(24 * i + 16, BigInt(offset), true);
  });
  return bytes;
}

export function vmaOf(start: bigint, pages: number, more: Partial<CapturedVma> = {}): CapturedVma {
  return {
    start,
    end: start + BigInt(pages * PAGE),
    protection: 'rw-',
    shared: false,
    offset: 0n,
    device: '00:00',
    inode: 0n,
    path: '',
    kind: 'anonymous',
    leftOut: '',
    vmFlags: 'rd wr mr',
    ...more,
  };
}

function threadOf(tid: number): CapturedThread {
  return {
    tid,
    namespaceTid: 7,
    name: 'target',
    registers: pattern(216, 1),
    extendedRegisters: pattern(64, 2),
    signalMask: 1n << 63n,
    pendingSignals: 0n,
    robustList: 0x7f00_1234_5000n,
    rseq: { address: 0x7f00_1234_6000n, bytes: 32, signature: 0x53053053 },
  };
}

function stateOf(): CapturedState {
  return {
    parentPid: 1,
    processGroup: 77,
    sessionLeader: 0,
    nice: -20,
    flags: 0x400000n,
    userIds: [1000, 0, 0, 2 ** 32 - 1],
    groupIds: [100, 100, 100, 100],
    supplementaryGroups: [4, 24],
    capabilities: {
      inheritable: 0n,
      permitted: 1n,
      effective: 1n,
      bounding: 2n ** 41n - 1n,
      ambient: 0n,
    },
    noNewPrivileges: true,
    seccompMode: 2,
    limits: [{ name: 'NOFILE', soft: 1024n, hard: 2n ** 64n - 1n }],
    auxiliaryVector: pattern(32, 3),
    addresses: {
      startCode: 0x40_0000n,
      endCode: 0x41_0000n,
      startStack: 0x7ffc_0000_1000n,
      startData: 0x42_0000n,
      endData: 0x43_0000n,
      startBreak: 0x44_0000n,
      argumentsStart: 0x7ffc_0000_2000n,
      argumentsEnd: 0x7ffc_0000_2010n,
      environmentStart: 0x7ffc_0000_2010n,
      environmentEnd: 0x7ffc_0000_2100n,
    },
    programBreak: 0x46_0000n,
    pendingSignals: 0n,
    ignoredSignals: 1n << 12n,
    caughtSignals: 1n << 1n,
    signalActions: [{ signal: 2, handler: 0x40_1000n, flags: 0n, restorer: 0n, mask: 0n }],
    extendedLayout: [{ number: 2, bytes: 256, offset: 576 }],
    umask: 0o22,
    workingDirectory: '/',
    root: '',
    descriptors: [{ descriptor: 0, path: '/dev/null', position: 0n, flags: 0o100002 }],
  };
}

export function processOf(more: Partial<WriteImageProcess> = {}): WriteImageProcess {
  return {
    pid: 77,
    namespacePid: 7,
    name: 'target',
    commandLine: ['target', '', '--flag'],
    executable: '/bin/target',
    startTimeTicks: 12_345n,
    vmas: [],
    threads: [threadOf(77)],
    state: stateOf(),
    leftOut: [],
    pageTable: new Uint8Array(),
    ...more,
  };
}

/** The file as a manifest notes it. */
export async function noteFile(path: string): Promise<NativeFile> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return { path, device: dev, inode: ino, bytes: size, modifiedNs: mtimeNs, changedNs: ctimeNs };
}

export interface TestImage {
  dir: string;
  shards?: readonly Uint8Array[];
  processes: readonly WriteImageProcess[];
  more?: Partial<WriteImageOptions>;
}

export async function writeTestImage(image: TestImage): Promise<Manifest> {
  const { dir, shards = [], processes, more = {} } = image;
  const pieceBytes = more.pieceBytes ?? PIECE;
  const described = shards.map((bytes, i) => ({
    file: `shard-${String(i).padStart(4, '0')}.img`,
    bytes: bytes.length,
    crcs: more.checksum === 'none' ? new Uint32Array() : crcsOf(bytes, pieceBytes),
  }));
  for (const [i, { file }] of described.entries()) {
    await writeFile(join(dir, file), shards[i] ?? '', { mode: 0o600 });
  }
  return writeImage({
    dir,
    producer: { name: 'sluice', version: '0.1.0' },
    createdNs: 1_700_000_000_123_456_789n,
    kernel: { release: '6.18.0', machine: 'x86_64' },
    consistency: 'frozen',
    session: SESSION,
    round: 1,
    parent: null,
    capture: 'vmsplice',
    checksum: 'crc32c',
    pieceBytes,
    shards: described,
    processes,
    rounds: [{ kind: 'final', pagesWritten: 4, bytesWritten: 4 * PAGE, times: { frozen_time: 9 } }],
    crc32c: naiveCrc32c,
    ...more,
  });
}

export const SMALL_PID = 77;
export const SMALL_START = 0x7f00_0000_0000n;
/** Address of a page of the small images. */
export const at = (page: number) => SMALL_START + BigInt(page * PAGE);

/**
 * Two shards of three and one page, one process with an anonymous mapping of eight pages: stored,
 * stored, zeros, stored, zeros, aliased, zeros, left out.
 */
export async function writeSmallImage(
  dir: string,
  more: Partial<WriteImageOptions> = {},
): Promise<Manifest> {
  const pageTable = pageTableOf([
    { address: at(0), pages: 2, shard: 0, offset: PAGE },
    { address: at(3), pages: 1, shard: 1, offset: 0 },
    { address: at(5), pages: 1, shard: 0, offset: PAGE },
  ]);
  const vmas = [
    vmaOf(SMALL_START, 8, { path: '[heap]' }),
    vmaOf(0xffff_ffff_ff60_0000n, 1, { kind: 'excluded', leftOut: 'vsyscall', protection: '--x' }),
  ];
  const leftOut = [{ start: at(7), end: at(8), reason: 'poisoned' }];
  const shards = [pattern(3 * PAGE, 10), pattern(PAGE, 20)];
  const processes = [processOf({ pid: SMALL_PID, vmas, leftOut, pageTable })];
  return writeTestImage({ dir, shards, processes, more });
}

/** Bytes that `encodeNaively` takes as they are. */
export class Raw {
  readonly bytes: Uint8Array;
  constructor(...bytes: number[]) {
    this.bytes = Uint8Array.from(bytes);
  }
}

/** MessagePack without regard for size: independent of the encoder that the product uses. */
export function encodeNaively(value: unknown): Buffer {
  if (value instanceof Raw) return Buffer.from(value.bytes);
  if (value === null) return Buffer.of(0xc0);
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'string')
    return Buffer.concat([head(0xdb, Buffer.byteLength(value)), Buffer.from(value)]);
  if (value instanceof Uint8Array) return Buffer.concat([head(0xc6, value.length), value]);
  if (typeof value === 'bigint') {
    const bytes = Buffer.alloc(9, value < 0n ? 0xd3 : 0xcf);
    if (value < 0n) bytes.writeBigInt64BE(value, 1);
    else bytes.writeBigUInt64BE(value, 1);
    return bytes;
  }
  if (typeof value === 'number') {
    if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return head(0xce, value);
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    return bytes;
  }
  if (Array.isArray(value))
    return Buffer.concat([head(0xdd, value.length), ...value.map(encodeNaively)]);
  const entries = Object.entries(value as object);
  return Buffer.concat([head(0xdf, entries.length), ...entries.flat().map(encodeNaively)]);
}

function head(token: number, number: number): Buffer {
  const bytes = Buffer.alloc(5, token);
  bytes.writeUInt32BE(number, 1);
  return bytes;
}

/** A manifest file around any payload, with the right checksum. */
export function wrapPayload(payload: Uint8Array): Buffer {
  return Buffer.concat([
    Buffer.of(0x94, 0xac),
    Buffer.from('sluice-image'),
    Buffer.of(3),
    head(0xce, naiveCrc32c(payload, 0)),
    head(0xc6, payload.length),
    payload,
  ]);
}

export async function replaceManifest(dir: string, payload: unknown): Promise<void> {
  await writeFile(join(dir, 'manifest.msgpack'), wrapPayload(encodeNaively(payload)));
}

/** Opens, verifies and reads all of the small image, as one who uses it would. */
export async function useSmallImage(dir: string): Promise<void> {
  await using image = await open(dir);
  await image.verify();
  for (const { pid } of image.processes) {
    for (const { address, pages } of image.runs(pid)) await image.read(pid, address, pages * PAGE);
  }
}

/** What went wrong; fails if nothing did. */
export async function errorOf(work: Promise<unknown>): Promise<SluiceErrorLike> {
  try {
    await work;
  } catch (error) {
    return error as SluiceErrorLike;
  }
  throw new Error('nothing was thrown');
}

export interface SluiceErrorLike extends Error {
  code: string;
  file?: string;
  offset?: number;
}
