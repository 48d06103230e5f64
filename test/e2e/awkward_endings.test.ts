/**
 * Targets that are killed, end or execute another program in a certain round of a dump, however it takes
 * its pages. Each step within a round is tried in session_endings_test.cc.
 */
import { describe, expect, it } from 'vitest';
import { dumpOf, failureOf, type Options } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { childrenOf } from '../harness/procfs.js';
import { type ChildTarget, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertClean } from '../harness/untouched.js';

leakCheck();

/** So many that it is over long before the last. */
const ROUNDS = 250;

const WAYS: Record<string, Options> = {
  vmsplice: { capture: 'vmsplice', lanes: 2 },
  read: { capture: 'read', tracker: 'none' },
  twin: { consistency: 'twin' },
};

const ENDINGS = {
  'is killed': ['ERR_SLUICE_TARGET_EXITED', (target: ChildTarget) => target.signal('SIGKILL')],
  ends: ['ERR_SLUICE_TARGET_EXITED', (target: ChildTarget) => target.send('end')],
  'executes another program': [
    'ERR_SLUICE_TARGET_EXECED',
    (target: ChildTarget) => target.send('exec'),
  ],
} as const;

describe('a target that', () => {
  for (const [title, [code, end]] of Object.entries(ENDINGS)) {
    for (const [name, way] of Object.entries(WAYS)) {
      it.each([1, 3])(`${title} in round %i of a dump by ${name}`, async (round) => {
        await using dir = new TempDir();
        await using target = await startTarget('hazards', [dir.join('file')]);
        const dump = dumpOf(target.pid, { ...way, rounds: ROUNDS }, ({ number }) => {
          if (number === round) end(target);
        });
        expect(await failureOf(dump)).toMatchObject({ code, pid: target.pid, thawed: true });
        if (code === 'ERR_SLUICE_TARGET_EXITED') {
          await target.ended();
          return;
        }
        await target.nextLine();
        await assertClean(target.pid);
        // One of its own, and that of the program before.
        expect(childrenOf(target.pid).length).toBe(2);
        await target.check();
        await using again = await dumpOf(target.pid);
        await again.image.verify();
      });
    }
  }
});
