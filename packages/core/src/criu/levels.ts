import { lstat, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { fromNative } from '../errors.js';
import { corrupt } from '../image/faults.js';
import { MAX_CHAIN_IMAGES, MAX_SHARDS } from '../image/layout.js';
import { isCriuDirectory } from './directory.js';
import { type Level, readLevel } from './level.js';
import { PARENT_LINK } from './names.js';

/**
 * A directory of CRIU's images and those that its `parent` leads to, newest first. The link may lead
 * anywhere, as for CRIU, but not round in a circle.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IO`
 */
export async function readLevels(dir: string): Promise<Level[]> {
  const levels: Level[] = [];
  const seen = new Set<string>();
  let pagesFiles = 0;
  for (let at: string | undefined = dir; at !== undefined; ) {
    const real = await resolved(at);
    if (seen.has(real)) throw damagedLink(levels, 'it leads round in a circle');
    if (levels.length >= MAX_CHAIN_IMAGES) {
      throw damagedLink(levels, `more than ${MAX_CHAIN_IMAGES} images in one chain`);
    }
    seen.add(real);
    const level = await readLevel(at);
    levels.push(level);
    pagesFiles += level.processes.size + level.objects.size;
    if (pagesFiles > MAX_SHARDS) {
      throw corrupt(at, 0, `more than ${MAX_SHARDS} pages files in one chain`);
    }
    at = await parentOf(real);
  }
  return levels;
}

async function parentOf(dir: string): Promise<string | undefined> {
  const path = join(dir, PARENT_LINK);
  try {
    await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromNative(error, { file: path });
  }
  let parent: string;
  try {
    parent = await realpath(path);
  } catch (error) {
    throw corrupt(path, 0, 'it leads nowhere', error);
  }
  if (!(await isCriuDirectory(parent))) throw corrupt(path, 0, 'it leads to no images of CRIU');
  return parent;
}

function damagedLink(levels: readonly Level[], what: string): Error {
  return corrupt(join(levels.at(-1)?.dir ?? '', PARENT_LINK), 0, what);
}

async function resolved(dir: string): Promise<string> {
  return realpath(dir).catch((error: unknown) => {
    throw fromNative(error, { file: dir });
  });
}
