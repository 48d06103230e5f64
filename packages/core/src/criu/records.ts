/**
 * How CRIU frames its images: one or two magics, then records, up to the end of the file:
 *
 *     | u32 magic | u32 magic | u32 bytes | payload | u32 bytes | payload ...    little-endian
 */
import { type DescMessage, fromBinary, isFieldSet, type MessageShape } from '@bufbuild/protobuf';
import { FeatureSet_FieldPresence } from '@bufbuild/protobuf/wkt';
import { corrupt } from '../image/faults.js';
import { type ImageFile, openRegular, readExactly } from '../image/image_file.js';

const BLOCK_BYTES = 1024 * 1024;

/** Magics, and records that are ready to be written. */
export function frame(magics: readonly number[], payloads: readonly Uint8Array[] = []): Uint8Array {
  const bytes = payloads.reduce((sum, { length }) => sum + 4 + length, 4 * magics.length);
  const framed = new Uint8Array(bytes);
  const view = new DataView(framed.buffer);
  let at = 0;
  const put = (value: number) => {
    view.setUint32(at, value, true);
    at += 4;
  };
  for (const magic of magics) put(magic);
  for (const payload of payloads) {
    put(payload.length);
    framed.set(payload, at);
    at += payload.length;
  }
  return framed;
}

/**
 * Checks the magics of an image and calls `take` for each record, with its offset in the file. Only
 * for records that the file has room for is memory taken, and never more than `mostBytes` at once.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function readRecords(
  file: ImageFile,
  magics: readonly number[],
  mostBytes: number,
  take: (payload: Uint8Array, offset: number) => void,
): Promise<void> {
  const start = 4 * magics.length;
  const head = new Uint8Array(Math.min(start, file.bytes));
  await readExactly(file, head, 0);
  magics.forEach((magic, i) => {
    if (head.length < 4 * i + 4)
      throw corrupt(file.path, head.length, 'the file ends in its magic');
    if (uint32(head, 4 * i) !== magic) throw corrupt(file.path, 4 * i, 'the magic is wrong');
  });
  let block = new Uint8Array(0);
  for (let at = start; at < file.bytes; ) {
    // Bytes of the block from `at` on; at least one record more is needed.
    let size = Math.min(BLOCK_BYTES, file.bytes - at);
    if (block.length >= 4) size = Math.max(size, 4 + recordBytes(block, at));
    block = new Uint8Array(size);
    await readExactly(file, block, at);
    if (block.length < 4) throw corrupt(file.path, at, 'the file ends in the size of a record');
    while (block.length >= 4 && block.length >= 4 + recordBytes(block, at)) {
      const bytes = recordBytes(block, at);
      take(block.subarray(4, 4 + bytes), at);
      at += 4 + bytes;
      block = block.subarray(4 + bytes);
    }
  }

  function recordBytes(from: Uint8Array, at: number): number {
    const bytes = uint32(from, 0);
    if (bytes > mostBytes) throw corrupt(file.path, at, `a record of ${bytes} bytes`);
    if (at + 4 + bytes > file.bytes) throw corrupt(file.path, at, 'the file ends in a record');
    return bytes;
  }
}

/** What an image is made of. */
export interface ImageType<Schema extends DescMessage> {
  magics: readonly number[];
  schema: Schema;
  /** Longer records are taken for damage. */
  mostBytes: number;
}

/**
 * Calls `take` for each message of an image, with the offset of its record.
 *
 * @returns The bytes of the file; undefined if there is none.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function readMessages<Schema extends DescMessage>(
  path: string,
  { magics, schema, mostBytes }: ImageType<Schema>,
  take: (message: MessageShape<Schema>, offset: number) => void,
): Promise<number | undefined> {
  const file = await openRegular(path);
  if (file === undefined) return undefined;
  try {
    await readRecords(file, magics, mostBytes, (payload, offset) => {
      take(decode(schema, payload, path, offset), offset);
    });
  } finally {
    await file.handle.close();
  }
  return file.bytes;
}

/** The only message of an image, and the offset of its record; undefined if there is no such file. */
export async function readOnlyMessage<Schema extends DescMessage>(
  path: string,
  type: ImageType<Schema>,
): Promise<{ message: MessageShape<Schema>; offset: number } | undefined> {
  let only: { message: MessageShape<Schema>; offset: number } | undefined;
  const bytes = await readMessages(path, type, (message, offset) => {
    if (only !== undefined) throw corrupt(path, offset, 'a second record');
    only = { message, offset };
  });
  if (bytes !== undefined && only === undefined) {
    throw corrupt(path, bytes, 'the file ends before its record');
  }
  return only;
}

/**
 * @param readUnknownFields Whether the message keeps what the schema does not have. A field of two
 * bytes takes more than a hundred in memory.
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`
 */
export function decode<Schema extends DescMessage>(
  schema: Schema,
  payload: Uint8Array,
  path: string,
  offset: number,
  readUnknownFields = false,
): MessageShape<Schema> {
  let message: MessageShape<Schema>;
  try {
    message = fromBinary(schema, payload, { readUnknownFields });
  } catch (cause) {
    throw corrupt(path, offset, `no ${schema.name}`, cause);
  }
  checkRequired(schema, message, path, offset);
  return message;
}

/** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` */
export function checkRequired<Schema extends DescMessage>(
  schema: Schema,
  message: MessageShape<Schema>,
  path: string,
  offset: number,
): void {
  const missing = schema.fields.find(
    (field) =>
      field.presence === FeatureSet_FieldPresence.LEGACY_REQUIRED && !isFieldSet(message, field),
  );
  if (missing !== undefined) {
    throw corrupt(path, offset, `a ${schema.name} without ${missing.name}`);
  }
}

function uint32(bytes: Uint8Array, offset: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(offset, true);
}
