import { realpath } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { SluiceError } from '../errors.js';
import { nativeCrc32c } from '../image/checksum.js';
import { joined, type PageSpan } from '../image/page_spans.js';
import { closeShards } from '../image/shards.js';
import { isCriuDirectory } from './directory.js';
import type { Level } from './level.js';
import { readLevels } from './levels.js';
import { PE_LAZY, pagemapFile } from './names.js';
import { openLevels } from './open_directory.js';
import type { Pagemap } from './pagemap.js';
import { MICROSECONDS_PER_TICK } from './ticks.js';

/** Whose memory a parent must hold. */
export interface CriuTarget {
  /** In the process's own pid namespace. */
  namespacePid: number;
  /** Clock ticks after boot, field 22 of proc_pid_stat(5). */
  startTimeTicks: bigint;
}

/**
 * Checks that a directory of CRIU's images can be the parent of a new one of this process, and that it
 * and those below it are undamaged.
 *
 * @param imagesDir The new directory, which need not be there yet.
 * @param parent Path from there.
 * @returns The pages that the parent has or leaves to its own, ascending; those of one entry of a
 * pagemap may be joined with those of the next.
 * @throws SluiceError `ERR_SLUICE_PARENT`, naming the reason; `ERR_SLUICE_OPTION` for a path that is
 * not relative, which would not outlast a move of the images; `ERR_SLUICE_IO`
 */
export async function checkCriuParent(
  imagesDir: string,
  parent: string,
  target: CriuTarget,
): Promise<PageSpan[]> {
  if (typeof parent !== 'string' || parent === '' || isAbsolute(parent) || parent.includes('\0')) {
    const message = `Expected a path from the new directory, got ${JSON.stringify(parent)}`;
    throw new SluiceError('ERR_SLUICE_OPTION', message);
  }
  const dir = join(await locate(imagesDir), parent);
  if (!(await isCriuDirectory(dir))) {
    throw refusal(dir, 'there is no such directory, or it has no images of CRIU');
  }
  let levels: Level[];
  try {
    levels = await readLevels(dir);
    const { shards } = await openLevels(levels, nativeCrc32c);
    await closeShards(shards);
  } catch (error) {
    if (!SluiceError.isSluiceError(error) || error.code === 'ERR_SLUICE_IO') throw error;
    throw refusal(dir, error.message, error);
  }
  return [...joined(pagesThere(checkProcess(levels[0] as Level, dir, target)))];
}

/** Where a directory is or will be, for the kernel takes ".." from there and not from a link to it. */
async function locate(dir: string): Promise<string> {
  const whole = resolve(dir);
  return realpath(whole).catch(async () => {
    const above = await realpath(dirname(whole)).catch(() => dirname(whole));
    return join(above, basename(whole));
  });
}

/** By the rule of CRIU, which would else take everything again, or fail. */
function checkProcess(
  { inventory, processes }: Level,
  dir: string,
  { namespacePid, startTimeTicks }: CriuTarget,
): Pagemap {
  const pagemap = processes.get(namespacePid);
  if (pagemap === undefined) throw refusal(dir, `it has no ${pagemapFile(namespacePid)}`);
  const uptime = inventory?.dumpUptime;
  if (uptime === undefined) throw refusal(dir, 'its inventory does not say when it was made');
  if (uptime / MICROSECONDS_PER_TICK <= startTimeTicks) {
    throw refusal(dir, `it was made before process ${namespacePid} started`);
  }
  return pagemap;
}

function* pagesThere(pagemap: Pagemap): Generator<PageSpan, void, undefined> {
  for (const entry of pagemap) if (entry.where !== PE_LAZY) yield entry;
}

function refusal(dir: string, reason: string, cause?: unknown): SluiceError {
  const message = `${dir} cannot be the parent: ${reason}`;
  return new SluiceError('ERR_SLUICE_PARENT', message, { file: dir, cause });
}
