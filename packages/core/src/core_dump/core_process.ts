/** Makes an ELF core of a live process. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { AbortError, fromNative, withThawed } from '../errors.js';
import { notWritable } from '../image/image_dir.js';
import { identify } from '../session/identify.js';
import { checkPid } from '../session/options.js';
import { dumpProcess } from '../session/target.js';
import { type CoreProcessOptions, resolveCoreProcessOptions } from './options.js';
import { checkFree } from './output.js';
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
    if (signal?.aborted) throw new AbortError(signal.reason);
    identify(pid);
    if (typeof out === 'string') await checkFree(resolve(out));
    const filter = core.filter ?? (await filterOf(pid));
    const dir = await temporaryDirectory(out, temporaryDir);
    try {
      // It is read once, at once.
      const dumped = await dumpProcess(pid, { ...dump, dir, checksum: 'none' });
      const result = await writeCore(dir, { ...core, filter });
      const { dir: _, held: __, ...about } = dumped;
      return { ...result, dump: about };
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  } catch (error) {
    throw withThawed(fromNative(error, { pid }), true);
  }
}

/** As the kernel would take it for a core of this process. */
async function filterOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/coredump_filter`, 'latin1');
  return Number.parseInt(text, 16);
}

async function temporaryDirectory(
  out: CoreProcessOptions['out'],
  given: string | undefined,
): Promise<string> {
  const beside = typeof out === 'string' ? dirname(resolve(out)) : tmpdir();
  const parent = given === undefined ? beside : resolve(given);
  const name = typeof out === 'string' ? basename(out) : 'sluice-core';
  return mkdtemp(join(parent, `${name}.image-`)).catch((error: unknown) => {
    throw notWritable(error, parent);
  });
}
