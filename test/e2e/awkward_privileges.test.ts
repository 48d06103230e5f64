/** Targets with seccomp filters, or with other rights than the dumper. */
import { readdirSync } from 'node:fs';
import { openImage } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { expectLeftAlone, startAwkward, withoutHelper } from '../harness/awkward.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpAs, NOBODY, strangerRefusal } from '../harness/stranger.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const isRoot = process.getuid?.() === 0;
/** No user that anything else runs as. */
const UID = 54_323;

describe('a target', () => {
  describe.skipIf(!isRoot).each([
    ['in strict seccomp mode', 'strict'],
    ['that is killed for a call it did not name', 'filter=kill'],
    ['whose calls wait for a supervisor that is not there', 'filter=notify'],
  ])('%s', (_title, filter) => {
    it('is read from outside, as its filter would have its way if the dumper died', async () => {
      await using target = await startAwkward(filter);
      const { restore: _, ...dumps } = withoutHelper(/seccomp filter/);
      await expectLeftAlone(target, dumps);
    });

    it('is dumped in every way by force', async () => {
      await using target = await startAwkward(filter);
      await expectLeftAlone(target, {}, { force: true });
    });
  });

  it.skipIf(!isRoot)('of another user, without privileges and not dumpable', async () => {
    await using target = await startAwkward(`user=${UID}`, 'no-new-privs', 'undumpable');
    await expectLeftAlone(target);
  });
});

interface Attempt {
  status: number | null;
  stdout: string;
  stderr: string;
}

describe('a dumper without privileges', () => {
  /** Dumps a target of its own user, which must not notice. */
  async function tryDump(
    target: TestTarget,
    options: string[],
    look: (attempt: Attempt, dir: TempDir) => Promise<void>,
  ): Promise<void> {
    await using dir = new TempDir();
    const before = viewOf(target.pid);
    const attempt = dumpAs(NOBODY, target.pid, dir.open().join('image'), ['--json', ...options]);
    await look(attempt, dir);
    await assertUntouched(target.pid, before);
    await target.check();
  }

  async function expectRefused({ status, stderr }: Attempt, dir: TempDir, code: string) {
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining(code) });
    expect(readdirSync(dir.path)).toEqual([]);
  }

  for (const filter of ['strict', 'filter=kill', 'filter=notify']) {
    it(`reads a target of its user from outside, whose filter it may not suspend (${filter})`, async (ctx) => {
      const refusal = strangerRefusal();
      if (refusal !== undefined) ctx.skip(refusal);
      await using target = await startTarget('awkward', [filter], { uid: NOBODY });
      await tryDump(target, ['--capture', 'vmsplice'], (attempt, dir) =>
        expectRefused(attempt, dir, 'ERR_SLUICE_CAPTURE_UNAVAILABLE: it has a seccomp filter'),
      );
      await tryDump(target, [], async ({ status, stdout }, dir) => {
        expect(status).toBe(0);
        expect(JSON.parse(stdout)).toMatchObject({
          capture: 'read',
          capture_reason: expect.stringContaining('seccomp filter'),
        });
        const image = await openImage(dir.join('image'));
        await image.verify();
        await image.close();
      });
    });
  }

  it('gets nothing of a target of its user that is not dumpable', async (ctx) => {
    const refusal = strangerRefusal();
    if (refusal !== undefined) ctx.skip(refusal);
    await using target = await startTarget('awkward', ['undumpable'], { uid: NOBODY });
    await tryDump(target, [], (attempt, dir) =>
      expectRefused(attempt, dir, 'ERR_SLUICE_PERMISSION'),
    );
  });
});
