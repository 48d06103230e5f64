/**
 * Manifest to bytes and back. Bytes are not trusted: nothing is parsed before its checksum, and
 * nothing is built before its structure was walked.
 */
import { Packr, Unpackr } from 'msgpackr';
import { SluiceError } from '../errors.js';
import type { Crc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { FORMAT_VERSION } from './layout.js';
import { type Manifest, ManifestFault } from './manifest.js';
import { checkManifest } from './manifest_check.js';
import { parseManifest } from './manifest_schema.js';
import {
  checkStructure,
  offsetOf,
  StructureFault,
  type StructureLimits,
} from './msgpack_structure.js';

// The wrapper has one encoding only: an array of four; the name; the version as fixint; uint 32;
// bin 32. So it is read at fixed offsets, and no byte of it can change unnoticed.
const MAGIC = Uint8Array.of(0x94, 0xac, ...Buffer.from('sluice-image'));
const VERSION_OFFSET = MAGIC.length;
const CRC_OFFSET = VERSION_OFFSET + 2;
const LENGTH_OFFSET = CRC_OFFSET + 5;
const UINT_32 = 0xce;
const BIN_32 = 0xc6;

/** Bytes before the payload. */
export const HEADER_BYTES = LENGTH_OFFSET + 4;

/** Room for as many mappings as a process has where `vm.max_map_count` was raised to 262,144. */
export const MAX_MANIFEST_BYTES = 128 * 1024 * 1024;
const LIMITS: StructureLimits = {
  depth: 16,
  containers: 2 ** 20,
  values: 2 ** 24,
  mapKeys: 64,
};

/**
 * @throws SluiceError `ERR_SLUICE_OPTION` if it is not a manifest that `decodeManifest` accepts.
 */
export function encodeManifest(manifest: Manifest, crc32c: Crc32c): Uint8Array {
  try {
    const bytes = wrap(
      new Packr({ useRecords: false, variableMapSize: true }).pack(manifest),
      crc32c,
    );
    decodeManifest(bytes, 'the manifest', crc32c);
    return bytes;
  } catch (cause) {
    throw new SluiceError('ERR_SLUICE_OPTION', 'These contents make no valid image', { cause });
  }
}

function wrap(payload: Uint8Array, crc32c: Crc32c): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  bytes[VERSION_OFFSET] = FORMAT_VERSION;
  bytes[CRC_OFFSET - 1] = UINT_32;
  view.setUint32(CRC_OFFSET, crc32c(payload, 0));
  bytes[LENGTH_OFFSET - 1] = BIN_32;
  view.setUint32(LENGTH_OFFSET, payload.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/**
 * Checks the bytes before the payload.
 *
 * @param head The first `HEADER_BYTES` of the file, or all of it if it has fewer.
 * @param fileBytes Size of the file.
 * @param file Its path, for errors.
 * @param most Bytes that it may have.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IMAGE_VERSION`
 */
export function checkHeader(
  head: Uint8Array,
  fileBytes: number,
  file: string,
  most = MAX_MANIFEST_BYTES,
): void {
  MAGIC.forEach((byte, i) => {
    if (i < head.length && head[i] !== byte) throw corrupt(file, i, 'not a manifest of Sluice');
  });
  const version = head[VERSION_OFFSET];
  if (version !== undefined && version !== FORMAT_VERSION) {
    throw new SluiceError(
      'ERR_SLUICE_IMAGE_VERSION',
      `${file} has format version ${version}; this Sluice reads version ${FORMAT_VERSION}`,
      { file, offset: VERSION_OFFSET },
    );
  }
  if (head.length < HEADER_BYTES) throw corrupt(file, head.length, 'ends inside its header');
  for (const [offset, token] of [
    [CRC_OFFSET - 1, UINT_32],
    [LENGTH_OFFSET - 1, BIN_32],
  ] as const) {
    if (head[offset] !== token) throw corrupt(file, offset, 'an unknown type in the header');
  }
  if (fileBytes > most) {
    throw corrupt(file, most, `${fileBytes} bytes are more than a manifest may have here`);
  }
  const payloadBytes = uint32(head, LENGTH_OFFSET);
  if (payloadBytes > fileBytes - HEADER_BYTES) {
    throw corrupt(file, fileBytes, `ends before the ${payloadBytes} bytes of its payload`);
  }
  if (payloadBytes < fileBytes - HEADER_BYTES) {
    throw corrupt(file, HEADER_BYTES + payloadBytes, 'bytes after the end');
  }
}

/**
 * @param bytes A whole manifest file.
 * @param file Its path, for errors.
 * @param checkMore What else must hold of it; throws `ManifestFault`.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IMAGE_VERSION`
 */
export function decodeManifest(
  bytes: Uint8Array,
  file: string,
  crc32c: Crc32c,
  checkMore?: (manifest: Manifest) => void,
): Manifest {
  checkHeader(bytes.subarray(0, HEADER_BYTES), bytes.length, file);
  const payload = bytes.subarray(HEADER_BYTES);
  if (crc32c(payload, 0) !== uint32(bytes, CRC_OFFSET)) {
    throw corrupt(file, HEADER_BYTES, 'the checksum of the payload is wrong');
  }
  try {
    checkStructure(payload, LIMITS);
    const unpackr = new Unpackr({ useRecords: false, int64AsType: 'bigint', copyBuffers: true });
    const manifest = parseManifest(unpackr.unpack(payload));
    checkManifest(manifest);
    checkMore?.(manifest);
    return manifest;
  } catch (error) {
    if (error instanceof StructureFault) {
      throw corrupt(file, HEADER_BYTES + error.offset, error.message, error);
    }
    if (error instanceof ManifestFault) {
      throw corrupt(file, HEADER_BYTES + offsetOf(payload, error.path), error.message, error);
    }
    throw error;
  }
}

function uint32(bytes: Uint8Array, offset: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(offset);
}
