/** Libraries for LD_PRELOAD, with which a dumper meets another system than this one. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { TempDir } from './temp.js';

/** Builds one of this directory's sources. Resolves to its path, or why it cannot be built. */
export function buildPreload(source: string, dir: TempDir): { library: string; refusal?: string } {
  const library = dir.join(source.replace(/\.c$/, '.so'));
  const file = fileURLToPath(new URL(source, import.meta.url));
  const flags = ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror'];
  const { error, status, stderr } = spawnSync('cc', [...flags, '-o', library, file]);
  if (error !== undefined) return { library, refusal: `cc does not run: ${error.message}` };
  if (status !== 0) throw new Error(`${source} cannot be built: ${stderr}`);
  return { library };
}
