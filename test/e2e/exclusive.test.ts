/**
 * One dump or restore of a process at a time: two dumps that watch the same pages would each take the
 * marks of the other, and both images would be wrong.
 */
import { expect, it } from 'vitest';
import { dumpOf, failedDumpOf, failureOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld } from '../harness/oracle.js';
import { restoreInto, sluice } from '../harness/patient.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertClean } from '../harness/untouched.js';

leakCheck();

/** So many that others can try in the middle of them. */
const ROUNDS = 40;

it('refuses a second dump, and a restore, between the rounds of a first one', async () => {
  await using target = await startTarget('writer', ['16', '1000']);
  const { pid } = target;
  await using earlier = await dumpOf(pid, { rounds: 0 });
  await using dir = new TempDir();
  let others: Promise<unknown[]> | undefined;
  await using dump = await dumpOf(pid, { rounds: ROUNDS, after: 'stop' }, () => {
    others ??= Promise.all([
      failedDumpOf(pid).then(({ code }) => code),
      failureOf(restoreInto(pid, earlier.image, { force: true })).then(({ code }) => code),
      sluice('dump', String(pid), '--out', dir.join('image')).then(({ stderr }) => stderr),
    ]);
  });
  const [second, restore, command] = (await others) ?? [];
  expect([second, restore]).toEqual(['ERR_SLUICE_ALREADY_TRACED', 'ERR_SLUICE_ALREADY_TRACED']);
  expect(command).toContain('ERR_SLUICE_ALREADY_TRACED');
  await whileHeld(pid, (memory) => memory.compare(dump.image));
  await dump.result.held?.resume();
  await target.check();

  await using again = await dumpOf(pid);
  await again.image.verify();
  await assertClean(pid);
});
