/** Makes an ELF core of a live process. */
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fromNative, throwIfAborted, withThawed } from '../errors.js';
import { createImageDir, type ImageDir } from '../image/index.js';
import type { TargetIdentity } from '../session/capture.js';
import { dumpInto } from '../session/dump_into.js';
import { ProgressMeter } from '../session/dump_run.js';
import { identify } from '../session/identify.js';
import { checkPid, resolveDumpOptions } from '../session/options.js';
import { checkFree, temporaryName } from './new_file.js';
import {
  type CoreProcessOptions,
  type ResolvedCoreProcessOptions,
  resolveCoreProcessOptions,
} from './options.js';
import { dumpIntoCore } from './placed.js';
import { type CoreResult, logWritten, writeCore } from './write.js';

/**
 * Dumps a process into a core: it is frozen as shortly as for any dump. To a file, pages are written once,
 * to where they belong in it. For a stream, and if a place for it is named, there is a temporary image, which
 * is removed whatever happens. If it cannot be, the error names it, and the core is whole.
 *
 * @param pid In the pid namespace of the caller.
 * @throws SluiceError as `dumpProcess` and `writeCore` do. Then nothing is left, and the process runs.
 * @throws AbortError
 */
export async function coreProcess(pid: number, options: CoreProcessOptions): Promise<CoreResult> {
  checkPid(pid);
  const { core, dump, temporaryDir } = resolveCoreProcessOptions(options);
  const { out, signal = new AbortController().signal } = core;
  try {
    throwIfAborted(signal);
    const identity = { pid, startTimeTicks: identify(pid).startTimeTicks };
    const filter = core.filter ?? (await filterOf(pid));
    if (typeof out === 'string' && temporaryDir === undefined) {
      const resolved = resolveDumpOptions({
        ...dump,
        checksum: 'none',
        dir: dirname(resolve(out)),
      });
      const made = await dumpIntoCore(identity, { out, filter, signal }, resolved);
      logWritten(made.core, core.logger);
      const { dir: _, held: __, ...dumped } = made.dump;
      return { ...made.core, dump: dumped };
    }
    return await throughImage(identity, { ...core, filter, signal }, dump, temporaryDir);
  } catch (error) {
    throw withThawed(fromNative(error, { pid }), true);
  }
}

async function throughImage(
  identity: TargetIdentity,
  core: ResolvedCoreProcessOptions['core'] & { signal: AbortSignal },
  dump: ResolvedCoreProcessOptions['dump'],
  temporaryDir: string | undefined,
): Promise<CoreResult> {
  const { out, signal } = core;
  if (typeof out === 'string') await checkFree(resolve(out));
  const image = await temporaryDirectory(out, temporaryDir);
  try {
    const { dir } = image;
    const resolved = { ...resolveDumpOptions({ ...dump, ...TEMPORARY, dir }), durable: false };
    const { result } = await dumpInto(image, identity, resolved, signal, new ProgressMeter());
    const { dir: _, held: __, ...dumped } = result;
    const written = await writeCore(dir, core);
    await image.discard();
    return { ...written, dump: dumped };
  } catch (error) {
    // What went wrong first is what the caller must learn.
    await image.discard().catch(() => {});
    throw error;
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
