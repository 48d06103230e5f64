/** One directory of CRIU's images, as far as memory goes. */
import type { BigIntStats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isFieldSet } from '@bufbuild/protobuf';
import { fromNative } from '../errors.js';
import { corrupt } from '../image/faults.js';
import { inventory_entrySchema } from './images_pb.js';
import { INVENTORY_FILE, INVENTORY_MAGIC, pidOf, shmemOf } from './names.js';
import { Pagemap } from './pagemap.js';
import { readOnlyMessage } from './records.js';

const INVENTORY = {
  magics: [INVENTORY_MAGIC],
  schema: inventory_entrySchema,
  mostBytes: 1024 * 1024,
};

export interface Inventory {
  imgVersion: number;
  /** Microseconds after boot; undefined if it is not there. */
  dumpUptime: bigint | undefined;
}

/** A directory whose pagemaps were read and checked, each by itself. */
export interface Level {
  dir: string;
  /** Undefined if there is none. */
  inventory: Inventory | undefined;
  modifiedNs: bigint;
  /** By pid, ascending. */
  processes: ReadonlyMap<number, Pagemap>;
  /** Of shared memory, by its inode. */
  objects: ReadonlyMap<bigint, Pagemap>;
}

/** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IO` */
export async function readLevel(dir: string): Promise<Level> {
  const names = await list(dir);
  const processes = new Map<number, Pagemap>();
  const objects = new Map<bigint, Pagemap>();
  const byPages = new Map<number, Pagemap>();
  for (const name of names) {
    const pid = pidOf(name);
    const object = shmemOf(name);
    if (pid === undefined && object === undefined) continue;
    const pagemap = await Pagemap.read(join(dir, name));
    if (byPages.has(pagemap.pagesId)) {
      const what = `pages file ${pagemap.pagesId}, which another pagemap has too`;
      throw corrupt(pagemap.path, 8, what);
    }
    byPages.set(pagemap.pagesId, pagemap);
    if (pid !== undefined) processes.set(pid, pagemap);
    if (object !== undefined) objects.set(object, pagemap);
  }
  const { mtimeNs } = await statOf(dir);
  const inventory = await readInventory(join(dir, INVENTORY_FILE));
  const inOrder = new Map([...processes].sort(([a], [b]) => a - b));
  return { dir, inventory, modifiedNs: mtimeNs, processes: inOrder, objects };
}

async function readInventory(path: string): Promise<Inventory | undefined> {
  const read = await readOnlyMessage(path, INVENTORY);
  if (read === undefined) return undefined;
  const { imgVersion, dumpUptime } = read.message;
  const hasUptime = isFieldSet(read.message, inventory_entrySchema.field.dumpUptime);
  return { imgVersion, dumpUptime: hasUptime ? dumpUptime : undefined };
}

async function list(dir: string): Promise<string[]> {
  // In an order that does not depend on the file system, so that errors do not either.
  return readdir(dir).then(
    (names) => names.sort(),
    (error: unknown) => {
      throw fromNative(error, { file: dir });
    },
  );
}

async function statOf(dir: string): Promise<BigIntStats> {
  return stat(dir, { bigint: true }).catch((error: unknown) => {
    throw fromNative(error, { file: dir });
  });
}
