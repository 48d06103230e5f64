/** Whether a directory is one of CRIU's. Needs none of its messages, which take long to load. */
import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MANIFEST_FILE } from '../image/layout.js';
import { INVENTORY_FILE, pidOf } from './names.js';

/** Whether `dir` holds images of CRIU and none of Sluice; false if it cannot be looked into. */
export async function isCriuDirectory(dir: string): Promise<boolean> {
  if (await exists(join(dir, MANIFEST_FILE))) return false;
  const names = await readdir(dir).catch(() => []);
  return names.some((name) => name === INVENTORY_FILE || pidOf(name) !== undefined);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
