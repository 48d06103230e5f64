/**
 * Walks MessagePack without building anything. A decoder allocates on the word of the bytes: five of
 * them can claim an array of four billion. So untrusted bytes are walked first, and decoded only if
 * all they claim is there.
 */

/** Bounds on what a walk accepts. */
export interface StructureLimits {
  /** Levels of containers. */
  depth: number;
  /** Arrays and maps. */
  containers: number;
  /** Values and keys, containers among them. */
  values: number;
  /** Keys of one map. */
  mapKeys: number;
}

/** The bytes are not one value within the limits. */
export class StructureFault extends Error {
  /** Bytes from the start to the value that is wrong. */
  readonly offset: number;

  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

/** @throws StructureFault unless the bytes are exactly one MessagePack value within the limits. */
export function checkStructure(bytes: Uint8Array, limits: StructureLimits): void {
  const cursor = new Cursor(bytes);
  const left = { containers: limits.containers, values: limits.values };
  const walk = (depth: number): void => {
    const start = cursor.at;
    cursor.step();
    const { kind, count } = cursor;
    left.values -= 1;
    if (left.values < 0) throw new StructureFault(start, 'more values than allowed');
    if (kind !== 'array' && kind !== 'map') return;
    left.containers -= 1;
    if (left.containers < 0) throw new StructureFault(start, 'more containers than allowed');
    if (depth >= limits.depth) throw new StructureFault(start, 'nested deeper than allowed');
    if (kind === 'map' && count > limits.mapKeys) {
      throw new StructureFault(start, 'a map has more keys than allowed');
    }
    for (let i = 0; i < count; i += 1) {
      if (kind === 'map') {
        const key = cursor.at;
        cursor.step();
        left.values -= 1;
        if (cursor.kind !== 'string') throw new StructureFault(key, 'a key is not a string');
      }
      walk(depth + 1);
    }
  };
  walk(0);
  if (cursor.at !== bytes.length) throw new StructureFault(cursor.at, 'bytes after the end');
}

/**
 * Offset of the value at `path`, or of the innermost container on the way to it that exists.
 *
 * @param bytes Must have passed `checkStructure`.
 */
export function offsetOf(bytes: Uint8Array, path: readonly (string | number)[]): number {
  const cursor = new Cursor(bytes);
  let found = 0;
  for (const name of path) {
    cursor.at = found;
    cursor.step();
    const inside = cursor.kind === 'map' ? seekKey(cursor, name) : seekIndex(cursor, name);
    if (!inside) break;
    found = cursor.at;
  }
  return found;
}

function seekKey(cursor: Cursor, name: string | number): boolean {
  const wanted = Buffer.from(String(name));
  for (let left = cursor.count; left > 0; left -= 1) {
    cursor.step();
    if (wanted.equals(cursor.bytes.subarray(cursor.at - cursor.count, cursor.at))) return true;
    cursor.skip();
  }
  return false;
}

function seekIndex(cursor: Cursor, index: string | number): boolean {
  if (cursor.kind !== 'array' || typeof index !== 'number' || index >= cursor.count) return false;
  for (let i = 0; i < index; i += 1) cursor.skip();
  return true;
}

type Kind = 'scalar' | 'string' | 'array' | 'map';

/** First bytes that do not hold a length themselves: kind; whether its bytes or its length follow. */
const FORMS: ReadonlyMap<number, readonly [Kind, 'bytes' | 'length', number]> = new Map([
  [0xc0, ['scalar', 'bytes', 0]], // nil
  [0xc2, ['scalar', 'bytes', 0]], // false
  [0xc3, ['scalar', 'bytes', 0]], // true
  [0xc4, ['scalar', 'length', 1]], // bin
  [0xc5, ['scalar', 'length', 2]],
  [0xc6, ['scalar', 'length', 4]],
  [0xca, ['scalar', 'bytes', 4]], // float
  [0xcb, ['scalar', 'bytes', 8]],
  [0xcc, ['scalar', 'bytes', 1]], // uint
  [0xcd, ['scalar', 'bytes', 2]],
  [0xce, ['scalar', 'bytes', 4]],
  [0xcf, ['scalar', 'bytes', 8]],
  [0xd0, ['scalar', 'bytes', 1]], // int
  [0xd1, ['scalar', 'bytes', 2]],
  [0xd2, ['scalar', 'bytes', 4]],
  [0xd3, ['scalar', 'bytes', 8]],
  [0xd9, ['string', 'length', 1]],
  [0xda, ['string', 'length', 2]],
  [0xdb, ['string', 'length', 4]],
  [0xdc, ['array', 'length', 2]],
  [0xdd, ['array', 'length', 4]],
  [0xde, ['map', 'length', 2]],
  [0xdf, ['map', 'length', 4]],
]);

class Cursor {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  at = 0;
  /** Of the value that `step` passed. */
  kind: Kind = 'scalar';
  /** Elements of an array, pairs of a map, bytes of a string. */
  count = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Passes one value; of a container only its head. */
  step(): void {
    const start = this.at;
    const token = this.bytes[start];
    if (token === undefined) throw new StructureFault(start, 'ends where a value should be');
    this.at += 1;
    if (token < 0x80 || token >= 0xe0) this.#take(start, 'scalar', 0);
    else if (token < 0x90) this.#take(start, 'map', token & 0x0f);
    else if (token < 0xa0) this.#take(start, 'array', token & 0x0f);
    else if (token < 0xc0) this.#take(start, 'string', token & 0x1f);
    else {
      const form = FORMS.get(token);
      if (form === undefined) {
        throw new StructureFault(start, `type 0x${token.toString(16)} is not allowed`);
      }
      const [kind, what, width] = form;
      this.#take(start, kind, what === 'bytes' ? width : this.#length(start, width));
    }
  }

  /** Passes one value with all that is in it. */
  skip(): void {
    for (let left = 1; left > 0; left -= 1) {
      this.step();
      if (this.kind === 'array') left += this.count;
      if (this.kind === 'map') left += 2 * this.count;
    }
  }

  /** @param count Elements, pairs or bytes that follow. */
  #take(start: number, kind: Kind, count: number): void {
    this.kind = kind;
    this.count = count;
    // An element has at least one byte.
    this.#need(start, kind === 'map' ? 2 * count : count);
    if (kind === 'scalar' || kind === 'string') this.at += count;
  }

  #length(start: number, width: number): number {
    this.#need(start, width);
    const at = this.at;
    this.at += width;
    if (width === 1) return this.#view.getUint8(at);
    return width === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #need(start: number, bytes: number): void {
    if (bytes > this.bytes.length - this.at) {
      throw new StructureFault(start, `claims ${bytes} bytes or more, and there are not as many`);
    }
  }
}
