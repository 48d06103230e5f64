/** The file of a core: it gets its name when it is whole, and whatever else is there stays. */
import { chmodSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { writeCore } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { Dumper, type Ending } from '../harness/dumper.js';
import { leakCheck } from '../harness/leaks.js';
import { buildPreload } from '../harness/preload.js';
import { NOBODY, privilegeRefusal, sluiceWith } from '../harness/privilege.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { readCore } from '../unit/core_dump/elf_reader.js';

leakCheck();

const noUser = privilegeRefusal();

/** Made in place; and of an image. */
const WAYS = [false, true];

/** Cores in a directory on a file system of some kind, see odd_files.c. */
class OddFiles implements AsyncDisposable {
  readonly #dir = new TempDir();
  readonly #tools = new TempDir();
  readonly out = this.#dir.join('core');
  /** Why there are none here, or undefined. */
  readonly refusal: string | undefined;
  readonly #wrapper: readonly string[];

  constructor(kind: string) {
    const { library, refusal } = buildPreload('odd_files.c', this.#tools);
    this.refusal = refusal;
    const variables = {
      LD_PRELOAD: library,
      SLUICE_TEST_ODD: kind,
      SLUICE_TEST_ODD_DIR: this.#dir.path,
    };
    this.#wrapper = ['env', ...Object.entries(variables).map((each) => each.join('='))];
  }

  async core(pid: number, throughImage: boolean): Promise<Ending> {
    const way = throughImage ? { temporaryDir: this.#tools.path } : {};
    const options = { out: this.out, ...way };
    await using dumper = new Dumper({ work: 'core', pid, options }, this.#wrapper);
    return await dumper.ended();
  }

  left(): string[] {
    return readdirSync(this.#dir.path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dir[Symbol.asyncDispose]();
    await this.#tools[Symbol.asyncDispose]();
  }
}

describe('the file of a core', () => {
  it('is not put in the place of one that came at the last moment', async (ctx) => {
    await using target = await startTarget('churn', ['still']);
    for (const throughImage of WAYS) {
      await using files = new OddFiles('n');
      if (files.refusal !== undefined) ctx.skip(files.refusal);
      const { outcome } = await files.core(target.pid, throughImage);
      expect(outcome).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS', thawed: true });
      expect(outcome?.message).toContain(files.out);
      expect(files.left()).toEqual(['core']);
      expect(readFileSync(files.out, 'utf8')).toBe('mine');
    }
    await target.check();
  });

  it('gets its name where there are no hard links', async (ctx) => {
    await using target = await startTarget('churn', ['still']);
    for (const throughImage of WAYS) {
      await using files = new OddFiles('l');
      if (files.refusal !== undefined) ctx.skip(files.refusal);
      const { outcome } = await files.core(target.pid, throughImage);
      expect(outcome).toMatchObject({ code: null });
      expect(files.left()).toEqual(['core']);
      expect(readCore(readFileSync(files.out)).loads.length).toBeGreaterThan(0);
      const again = await files.core(target.pid, throughImage);
      expect(again.outcome).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS' });
    }
    await target.check();
  });

  for (const [what, kind] of [
    ['its name cannot be brought to the disk', 's'],
    ['that cannot be where there are no hard links', 'sl'],
    ['its other name cannot be removed', 'u'],
  ] as const) {
    it(`is not left if ${what}`, async (ctx) => {
      await using target = await startTarget('churn', ['still']);
      for (const throughImage of WAYS) {
        await using files = new OddFiles(kind);
        if (files.refusal !== undefined) ctx.skip(files.refusal);
        const { outcome } = await files.core(target.pid, throughImage);
        expect(outcome).toMatchObject({ code: 'ERR_SLUICE_IO', thawed: true });
        expect(outcome?.message).toContain(files.out);
        expect(files.left()).toEqual([]);
      }
      await target.check();
    });
  }

  it('may have the longest of names', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('churn', ['still']);
    await using dump = await dumpOf(target.pid);
    // The last one has three bytes a character, and none fits where a temporary name is cut.
    for (const name of ['c'.repeat(255), 'c'.repeat(239), `c${'한'.repeat(84)}`]) {
      const { out } = await writeCore(dump.image, { out: dir.join(name) });
      expect(readdirSync(dir.path)).toEqual([name]);
      expect(statSync(out ?? '').size).toBeGreaterThan(0);
      dir.clear();
    }
    await target.check();
  });

  it('is refused before anything is touched if its name could not be brought to the disk', async (ctx) => {
    if (noUser !== undefined) ctx.skip(noUser);
    await using target = await startTarget('churn', ['still'], { uid: NOBODY });
    await using dir = new TempDir();
    // Everybody may make files in it, and not look at them.
    chmodSync(dir.path, 0o333);
    const args = ['core', '--pid', String(target.pid), '--out', dir.join('core')];
    const { status, stderr } = sluiceWith({ uid: NOBODY }, ...args);
    expect({ status, stderr }).toMatchObject({ status: 1 });
    expect(stderr).toContain('ERR_SLUICE_OUTPUT_NOT_WRITABLE');
    expect(readdirSync(dir.path)).toEqual([]);
    await target.check();
  });
});
