/**
 * Follows an image to its parents. The way down is not trusted either: it stays in the directory of
 * the session, leads to lower rounds only, and has an end.
 *
 *     DIR               round 4, parent round-0003
 *     DIR/round-0003    round 3, parent ../round-0001    (round 2 failed)
 *     DIR/round-0001    round 1, no parent
 */
import type { Stats } from 'node:fs';
import { lstat, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fromNative } from '../errors.js';
import type { Crc32c } from './checksum.js';
import { corrupt } from './faults.js';
import { isRoundDir, MANIFEST_FILE, MAX_CHAIN_IMAGES, MAX_SHARDS } from './layout.js';
import { type Manifest, ManifestFault } from './manifest.js';
import { MAX_MANIFEST_BYTES } from './manifest_codec.js';
import { readManifest } from './manifest_file.js';

/** One image of a chain. */
export interface ChainImage {
  /** Its directory. */
  dir: string;
  manifest: Manifest;
}

/** All manifests of a chain are in memory. */
const MAX_CHAIN_MANIFEST_BYTES = 4 * MAX_MANIFEST_BYTES;

/**
 * The image in `dir` and those below it, newest first; only the manifests are read.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_NOT_FOUND`, `ERR_SLUICE_IMAGE_UNFINISHED`,
 * `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IMAGE_CORRUPT` (with file and offset), `ERR_SLUICE_IO`
 */
export async function readChain(dir: string, crc32c: Crc32c): Promise<ChainImage[]> {
  const chain: ChainImage[] = [];
  const place = await placeOf(dir);
  let room = MAX_CHAIN_MANIFEST_BYTES;
  for (let at: string | undefined = dir; at !== undefined; ) {
    const checkMore = (manifest: Manifest): void => {
      checkParentPath(manifest, chain.length === 0 ? place : 'round');
      checkLink(chain, manifest);
    };
    const most = Math.min(MAX_MANIFEST_BYTES, room);
    const { manifest, bytes } = await readManifest(at, { crc32c, most, checkMore });
    room -= bytes;
    chain.push({ dir: at, manifest });
    at = await parentOf(at, manifest);
  }
  return chain;
}

type Place = 'session' | 'round' | 'either';

/** A directory that is named like one of a round may also be that of a session. */
async function placeOf(dir: string): Promise<Place> {
  // If it cannot be resolved, reading its manifest tells why.
  const real = await realpath(dir).catch(() => dir);
  return isRoundDir(basename(real)) ? 'either' : 'session';
}

/** A session has its rounds in it, a round has them beside it. */
function checkParentPath({ parent }: Manifest, place: Place): void {
  if (parent === null) return;
  if (place !== (parent.startsWith('../') ? 'session' : 'round')) return;
  throw new ManifestFault(['parent'], `${parent} cannot be named by the image of a ${place}`);
}

function checkLink(chain: readonly ChainImage[], manifest: Manifest): void {
  const shards = chain.reduce((sum, link) => sum + link.manifest.shards.length, 0);
  if (shards + manifest.shards.length > MAX_SHARDS) {
    throw new ManifestFault(['shards'], `more than ${MAX_SHARDS} shards in one chain of images`);
  }
  if (chain.length >= MAX_CHAIN_IMAGES) {
    throw new ManifestFault([], `more than ${MAX_CHAIN_IMAGES} images in one chain`);
  }
  const child = chain.at(-1)?.manifest;
  if (child === undefined) return;
  const { session, round, consistency } = manifest;
  if (session !== child.session) {
    throw new ManifestFault(['session'], `${session} is the parent of one of ${child.session}`);
  }
  if (round >= child.round) {
    throw new ManifestFault(['round'], `${round} is the parent of round ${child.round}`);
  }
  if (consistency === 'frozen' && child.consistency === 'live') {
    throw new ManifestFault(['consistency'], 'a frozen image is the parent of a live one');
  }
  checkSameProcesses(manifest, child);
}

function checkSameProcesses(parent: Manifest, child: Manifest): void {
  const startTimes = new Map(child.processes.map((each) => [each.pid, each.startTimeTicks]));
  parent.processes.forEach(({ pid, startTimeTicks }, i) => {
    const expected = startTimes.get(pid);
    if (expected === undefined) {
      throw new ManifestFault(['processes', i, 'pid'], `${pid} is not in the image above`);
    }
    if (expected !== startTimeTicks) {
      const what = `${startTimeTicks} is ${expected} in the image above`;
      throw new ManifestFault(['processes', i, 'startTimeTicks'], what);
    }
  });
  if (parent.processes.length !== child.processes.length) {
    throw new ManifestFault(['processes'], 'are not all of those in the image above');
  }
}

async function parentOf(dir: string, { parent }: Manifest): Promise<string | undefined> {
  if (parent === null) return undefined;
  // A round's directory can be reached through a link, whose own neighbours are others.
  const base = parent.startsWith('../') ? dirname(await resolved(dir)) : dir;
  const path = join(base, basename(parent));
  const reason = `which ${join(dir, MANIFEST_FILE)} names as its parent`;
  let stats: Stats;
  try {
    stats = await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fromNative(error, { file: path });
    throw corrupt(path, 0, `there is no such directory, ${reason}`, error);
  }
  if (!stats.isDirectory()) throw corrupt(path, 0, `it is no real directory, ${reason}`);
  return path;
}

async function resolved(dir: string): Promise<string> {
  return realpath(dir).catch((error: unknown) => {
    throw fromNative(error, { file: dir });
  });
}
