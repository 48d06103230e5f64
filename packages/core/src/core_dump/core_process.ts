/** Makes an ELF core of a live process. */
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fromNative, throwIfAborted, withThawed } from '../errors.js';
import { createImageDir, type ImageDir } from '../image/index.js';
import { dumpInto } from '../session/dump_into.js';
import { ProgressMeter } from '../session/dump_run.js';
import { identify } from '../session/identify.js';
import { checkPid, resolveDumpOptions } from '../session/options.js';
import { type CoreProcessOptions, resolveCoreProcessOptions } from './options.js';
import { checkFree, temporaryName } from './output.js';
import { type CoreResult, writeCore } from './write.js';

/**
 * Dumps a process and makes a core of the image: the process is frozen as shortly as for any dump. The image
 * is temporary, and removed whatever happens.
 *
 * @param pid In the pid namespace of the caller.
 * @throws SluiceError as `dumpProcess` and `writeCore` do. Then nothing is left, and the process runs.
 * @throws AbortError
 */
export async function coreProcess(pid: number, options: CoreProcessOptions): Promise<CoreResult> {
  checkPid(pid);
  const { core, dump, temporaryDir } = resolveCoreProcessOptions(options);
  const { out, signal } = core;
  try {
    throwIfAborted(signal);
    const { startTimeTicks } = identify(pid);
    if (typeof out === 'string') await checkFree(resolve(out));
    const filter = core.filter ?? (await filterOf(pid));
    const image = await temporaryDirectory(out, temporaryDir);
    try {
      const { dir } = image;
      const resolved = { ...resolveDumpOptions({ ...dump, ...TEMPORARY, dir }), durable: false };
      const identity = { pid, startTimeTicks };
      const forever = new AbortController().signal;
      const meter = new ProgressMeter();
      const { result } = await dumpInto(image, identity, resolved, signal ?? forever, meter);
      const { dir: _, held: __, ...dumped } = result;
      const written = await writeCore(dir, { ...core, filter });
      await image.discard();
      return { ...written, dump: dumped };
    } catch (error) {
      // What went wrong first is what the caller must learn.
      await image.discard().catch(() => {});
      throw error;
    }
  } catch (error) {
    throw withThawed(fromNative(error, { pid }), true);
  }
}

/**
 * The image is read once, at once: from the page cache, and what is removed soon enough never gets to the
 * disk.
 */
const TEMPORARY = { checksum: 'none', io: 'buffered' } as const;

/** As the kernel would take it for a core of this process. */
async function filterOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/coredump_filter`, 'latin1');
  return Number.parseInt(text, 16);
}

function temporaryDirectory(
  out: CoreProcessOptions['out'],
  given: string | undefined,
): Promise<ImageDir> {
  const beside = typeof out === 'string' ? dirname(resolve(out)) : tmpdir();
  const parent = given === undefined ? beside : resolve(given);
  const name = typeof out === 'string' ? basename(out) : 'sluice-core';
  return createImageDir(temporaryName(join(parent, name), 'image'));
}
