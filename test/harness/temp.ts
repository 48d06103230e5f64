/** Places for images that go away again. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A new directory under the system's one for temporary files. */
export class TempDir implements AsyncDisposable {
  static readonly #left = new Set<TempDir>();
  readonly path: string;

  constructor() {
    this.path = mkdtempSync(join(tmpdir(), 'sluice-test-'));
    TempDir.#left.add(this);
  }

  /** Lets every user into it. */
  open(): this {
    chmodSync(this.path, 0o777);
    return this;
  }

  join(...names: string[]): string {
    return join(this.path, ...names);
  }

  /** Removes what is in it. */
  clear(): void {
    for (const name of readdirSync(this.path)) rmSync(this.join(name), { recursive: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.path, { recursive: true, force: true });
    TempDir.#left.delete(this);
  }

  /** Those that no test has removed. */
  static left(): string[] {
    return [...TempDir.#left].map(({ path }) => path);
  }

  static async removeLeft(): Promise<void> {
    for (const dir of TempDir.#left) await dir[Symbol.asyncDispose]();
  }
}

/** A small file system of its own. */
export class SmallDisk implements AsyncDisposable {
  static readonly #left = new Set<SmallDisk>();
  readonly path: string;
  readonly #dir = new TempDir();

  /** @throws If this machine or user may not mount; `mountRefusal` tells before. */
  constructor(bytes: number) {
    this.path = this.#dir.path;
    mount(['-t', 'tmpfs', '-o', `size=${bytes},mode=0700`, 'sluice-test', this.path]);
    SmallDisk.#left.add(this);
  }

  join(...names: string[]): string {
    return join(this.path, ...names);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { status, stderr } = spawnSync('umount', [this.path], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`umount ${this.path}: ${stderr}`);
    SmallDisk.#left.delete(this);
    await this.#dir[Symbol.asyncDispose]();
  }

  /** Those that are still mounted. */
  static left(): string[] {
    return [...SmallDisk.#left].map(({ path }) => path);
  }

  static async removeLeft(): Promise<void> {
    for (const disk of SmallDisk.#left) await disk[Symbol.asyncDispose]();
  }
}

const OVERCOMMIT = '/proc/sys/vm/nr_overcommit_hugepages';

/** Lets programs have a few huge pages as long as it is in use. */
export class HugePagePool implements AsyncDisposable {
  /** Why there are none here, or undefined. */
  readonly refusal: string | undefined;
  readonly #before: string | undefined;

  constructor() {
    try {
      this.#before = readFileSync(OVERCOMMIT, 'latin1').trim();
      writeFileSync(OVERCOMMIT, String(Number(this.#before) + 8));
    } catch (error) {
      this.refusal = `no huge pages: ${error instanceof Error ? error.message : error}`;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.refusal === undefined) writeFileSync(OVERCOMMIT, this.#before ?? '0');
  }
}

/** Why no file system can be mounted here, or undefined. */
export async function mountRefusal(): Promise<string | undefined> {
  try {
    await using _ = new SmallDisk(1 << 20);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function mount(args: string[]): void {
  const { error, status, stderr } = spawnSync('mount', args, { encoding: 'utf8' });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`mount ${args.join(' ')}: ${stderr.trim()}`);
}
