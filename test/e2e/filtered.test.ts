/** Targets with a seccomp filter, which must not have its way should the dumper die in an injected call. */
import { describe, expect, it } from 'vitest';
import { dumpOf, failedDumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { startTarget } from '../harness/target.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

describe('of a target whose filter', () => {
  for (const mode of ['process', 'strict']) {
    it(`would kill it for a call, none is made without force (${mode})`, async () => {
      await using target = await startTarget('seccomp', [mode]);
      const { pid } = target;
      const before = viewOf(pid);
      {
        await using dump = await dumpOf(pid);
        expect(dump.result).toMatchObject({
          capture: 'read',
          capture_reason: expect.stringMatching(/seccomp filter .* if the dumper died/),
        });
        await dump.image.verify();
      }
      expect(await failedDumpOf(pid, { capture: 'vmsplice' })).toMatchObject({
        code: 'ERR_SLUICE_CAPTURE_UNAVAILABLE',
        message: expect.stringContaining('option force'),
      });
      await using dump = await dumpOf(pid, { force: true });
      expect(dump.result.capture).toBe('vmsplice');
      await assertUntouched(pid, before);
      await target.check();
    });
  }

  it('makes other calls fail, they are made', async () => {
    await using target = await startTarget('seccomp', ['polite']);
    const before = viewOf(target.pid);
    await using dump = await dumpOf(target.pid);
    expect(dump.result).toMatchObject({ capture: 'vmsplice', capture_reason: '' });
    await assertUntouched(target.pid, before);
    await target.check();
  });
});
