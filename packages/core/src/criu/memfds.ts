import { join } from 'node:path';
import { corrupt } from '../image/faults.js';
import { file_entrySchema, memfd_file_entrySchema, memfd_inode_entrySchema } from './images_pb.js';
import { COMMON_MAGIC, FILES_FILE, FILES_MAGIC, MEMFD_FILE, MEMFD_MAGIC } from './names.js';
import { checkRequired, readMessages } from './records.js';

const FILES = {
  magics: [COMMON_MAGIC, FILES_MAGIC],
  schema: file_entrySchema,
  // A record names all that an inotify or an epoll watches.
  mostBytes: 8 * 1024 * 1024,
};
const INODES = {
  magics: [COMMON_MAGIC, MEMFD_MAGIC],
  schema: memfd_inode_entrySchema,
  mostBytes: 8192,
};
const MOST_MEMFDS = 2 ** 16;

/** Where the memory of a memfd is. */
export interface Memfd {
  /** As proc_pid_maps(5) has it. */
  path: string;
  /** The object that has the pages. */
  inode: bigint;
}

/** The memfds of a directory, read when they are first asked for: most processes have none. */
export class Memfds {
  readonly #dir: string;
  #byFile: Promise<ReadonlyMap<bigint, Memfd> | undefined> | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /**
   * By the ids of the open files, which mappings have; undefined if a file that tells is missing.
   *
   * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
   */
  read(): Promise<ReadonlyMap<bigint, Memfd> | undefined> {
    this.#byFile ??= readMemfds(join(this.#dir, FILES_FILE), join(this.#dir, MEMFD_FILE));
    return this.#byFile;
  }
}

async function readMemfds(
  filesPath: string,
  inodesPath: string,
): Promise<ReadonlyMap<bigint, Memfd> | undefined> {
  const inodes = new Map<bigint, Memfd>();
  const inodesBytes = await readMessages(inodesPath, INODES, (entry, offset) => {
    checkNew(inodes, entry.inodeId, inodesPath, offset);
    inodes.set(entry.inodeId, { path: pathOf(entry.name), inode: BigInt(entry.shmid) });
  });
  if (inodesBytes === undefined) return undefined;
  const byFile = new Map<bigint, Memfd>();
  const filesBytes = await readMessages(filesPath, FILES, ({ id, memfd }, offset) => {
    if (memfd === undefined) return;
    checkRequired(memfd_file_entrySchema, memfd, filesPath, offset);
    checkNew(byFile, BigInt(id), filesPath, offset);
    const inode = inodes.get(BigInt(memfd.inodeId));
    if (inode === undefined) {
      throw corrupt(filesPath, offset, `memfd ${memfd.inodeId}, which ${MEMFD_FILE} has not`);
    }
    byFile.set(BigInt(id), inode);
  });
  return filesBytes === undefined ? undefined : byFile;
}

function checkNew(
  known: ReadonlyMap<bigint, Memfd>,
  id: bigint,
  path: string,
  offset: number,
): void {
  if (known.has(id)) throw corrupt(path, offset, `a second memfd ${id}`);
  if (known.size >= MOST_MEMFDS) throw corrupt(path, offset, `more than ${MOST_MEMFDS} memfds`);
}

/** CRIU cuts off what all memfds have, and takes anonymous memory that is shared for a memfd too. */
function pathOf(name: string): string {
  const escaped = name.replaceAll('\n', '\\012');
  return escaped === '/dev/zero' ? `${escaped} (deleted)` : `/memfd:${escaped} (deleted)`;
}
