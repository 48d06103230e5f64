/** Control groups (cgroups(7)) of tests, of version 1 or 2, with what they limit. */
import { existsSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { waitFor } from './wait.js';

const ROOT = '/sys/fs/cgroup';
/** Of version 2, beside others where it is not alone. */
const UNIFIED = [ROOT, `${ROOT}/unified`].find((dir) => existsSync(`${dir}/cgroup.controllers`));
/** `freezer` is one of version 1, `unified` none: what version 2 has by itself. */
type Controller = 'freezer' | 'memory' | 'pids' | 'unified';

/** Where groups of a controller are made, or undefined if none can be. */
export function groupsOf(controller: Controller): string | undefined {
  if (process.getuid?.() !== 0) return undefined;
  if (controller === 'unified') return UNIFIED;
  const own = `${ROOT}/${controller}`;
  if (existsSync(`${own}/cgroup.clone_children`)) return own;
  if (UNIFIED === undefined) return undefined;
  const controllers = readFileSync(`${UNIFIED}/cgroup.subtree_control`, 'utf8');
  return controllers.trim().split(' ').includes(controller) ? UNIFIED : undefined;
}

/** A new group of a controller that `groupsOf` has. Empty when it is disposed of, or emptied then. */
export class ControlGroup implements AsyncDisposable {
  readonly path: string;
  readonly #parent: string;

  constructor(controller: Controller) {
    const parent = groupsOf(controller);
    if (parent === undefined) throw new Error(`There are no control groups for ${controller}`);
    this.#parent = parent;
    this.path = mkdtempSync(`${parent}/sluice-test-`);
  }

  get isVersion1(): boolean {
    return this.#parent !== UNIFIED;
  }

  add(pid: number): void {
    this.set('cgroup.procs', pid);
  }

  get(file: string): string {
    return readFileSync(`${this.path}/${file}`, 'utf8');
  }

  set(file: string, value: string | number): void {
    writeFileSync(`${this.path}/${file}`, String(value));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of this.get('cgroup.procs').trim().split('\n')) {
      if (pid !== '') writeFileSync(`${this.#parent}/cgroup.procs`, pid);
    }
    // The last task of a group may be on its way out.
    await waitFor(`${this.path} is gone`, () => {
      try {
        rmdirSync(this.path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
      }
      return !existsSync(this.path);
    });
  }
}

/** What freezes all that is in a group, of each version. */
export const FREEZERS = [
  { version: 1, controller: 'freezer', file: 'freezer.state', frozen: 'FROZEN', thawed: 'THAWED' },
  { version: 2, controller: 'unified', file: 'cgroup.freeze', frozen: '1', thawed: '0' },
] as const;

/** Freezes a group until it is disposed of: what is frozen does not end by itself. */
export class Freezer implements Disposable {
  readonly #group: ControlGroup;
  readonly #how: (typeof FREEZERS)[number];

  constructor(group: ControlGroup, how: (typeof FREEZERS)[number]) {
    this.#group = group;
    this.#how = how;
  }

  async freeze(): Promise<void> {
    const { file, frozen, version } = this.#how;
    this.#group.set(file, frozen);
    await waitFor('it is frozen', () =>
      version === 1
        ? this.#group.get(file) === `${frozen}\n`
        : this.#group.get('cgroup.events').includes('frozen 1'),
    );
  }

  [Symbol.dispose](): void {
    this.#group.set(this.#how.file, this.#how.thawed);
  }
}
