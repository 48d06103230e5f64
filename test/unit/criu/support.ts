/** Images of CRIU made without a line of the product: naive protobuf, and directories of it. */
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PAGE } from '../image/support.js';

export const PRESENT = 4;
export const LAZY = 2;
export const PARENT = 1;

/** Number of a field, and its value; nested messages as bytes. */
export type Field = [number, bigint | number | Uint8Array];

export function message(...fields: Field[]): Buffer {
  return Buffer.concat(
    fields.map(([number, value]) =>
      value instanceof Uint8Array
        ? Buffer.concat([varint(8 * number + 2), varint(value.length), value])
        : Buffer.concat([varint(8 * number), varint(value)]),
    ),
  );
}

function varint(value: bigint | number): Buffer {
  const bytes: number[] = [];
  let left = BigInt(value);
  for (; left > 0x7fn; left >>= 7n) bytes.push(Number(left & 0x7fn) | 0x80);
  return Buffer.from([...bytes, Number(left)]);
}

export function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value, 4 * i);
  });
  return bytes;
}

export function image(magics: number[], records: Uint8Array[]): Buffer {
  return Buffer.concat([u32(...magics), ...records.flatMap((each) => [u32(each.length), each])]);
}

export function pagemap(id: number, entries: Uint8Array[]): Buffer {
  return image([0x54564319, 0x56084025], [message([1, id]), ...entries]);
}

/** As CRIU 4.2 writes it: the old count is zero. */
export function entry(address: bigint, pages: number, flags = PRESENT): Buffer {
  return message([1, address], [2, 0], [4, flags], [5, pages]);
}

/** As CRIU 3.17 writes it. */
export function oldEntry(address: bigint, pages: number, flags = PRESENT): Buffer {
  return message([1, address], [2, pages], [4, flags]);
}

export function inventory(uptime: bigint): Buffer {
  return image([0x58313116], [message([1, 0], [8, uptime], [9, 2])]);
}

/** A mapping of `mm-PID.img`. */
export interface Area {
  start: bigint;
  pages: number;
  status: number;
  shared?: boolean;
  offset?: number;
  id?: number;
}

export const ANON = 1 << 9;
export const ANON_SHARED = 1 << 8;
export const FILE_PRIVATE = 1 << 6;
export const VVAR = 1 << 12;
export const GUARD = 1 << 16;

export function mm(areas: Area[]): Buffer {
  const vmas = areas.map(({ start, pages, status, shared = false, offset = 0, id = 0 }): Field => {
    const end = start + BigInt(pages * PAGE);
    const flags = shared ? 1 : 2;
    const fields: Field[] = [
      [1, start],
      [2, end],
      [3, offset],
      [4, id],
      [5, 3],
      [6, flags],
      [7, status],
      [8, 1],
    ];
    return [14, message(...fields)];
  });
  return image([0x54564319, 0x57492820], [message([1, 5], ...vmas, [15, 1])]);
}

/** As CRIU writes memory that is shared, memfds too, from some version on. */
export const MEMFD_SHARED = (1 << 7) | (1 << 14);

/** `files.img` with a regular file 1 and these memfds; and what is behind them in `memfd.img`. */
export function memfds(
  ...all: { file: number; inode: number; object: number; name: string }[]
): Record<'files.img' | 'memfd.img', Buffer> {
  const regular = message([1, 1], [2, 1], [3, message([1, 1], [6, Buffer.from('/bin/true')])]);
  const files = all.map(({ file, inode }) =>
    message([1, 18], [2, file], [20, message([1, file], [2, 0], [3, 0], [5, inode])]),
  );
  const inodes = all.map(({ inode, object, name }) =>
    message([1, Buffer.from(name)], [2, 0], [3, 0], [4, PAGE], [5, object], [6, 1], [7, inode]),
  );
  return {
    'files.img': image([0x54564319, 0x56303138], [regular, ...files]),
    'memfd.img': image([0x54564319, 0x48453499], inodes),
  };
}

export type Files = Record<string, Uint8Array>;

/** Writes files to a directory that is made if need be. */
export async function writeFiles(dir: string, files: Files, parent?: string): Promise<string> {
  await mkdir(dir, { recursive: true });
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(dir, name), bytes);
  if (parent !== undefined) await symlink(parent, join(dir, 'parent'));
  return dir;
}
