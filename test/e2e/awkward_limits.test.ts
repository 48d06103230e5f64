/** Targets at limits of their own. */
import { describe, it } from 'vitest';
import { type Expected, expectLeftAlone, startAwkward, withoutHelper } from '../harness/awkward.js';
import { leakCheck } from '../harness/leaks.js';

leakCheck();

const isRoot = process.getuid?.() === 0;
/** No user that anything else runs as. */
const UID = 54_322;

describe('a target at its limit of', () => {
  it.each<[string, string[], Expected]>([
    ['descriptors', ['nofile=8'], {}],
    ['address space', ['as'], withoutHelper(/limit on its address space.*Cannot allocate/)],
    ['stack', ['stack'], withoutHelper(/no thread was on a stack with room/)],
  ])('%s', async (_title, conditions, expected) => {
    await using target = await startAwkward(...conditions);
    await expectLeftAlone(target, expected);
  });

  it.skipIf(!isRoot).each<[string, string[], Expected]>([
    ['processes', [`user=${UID}`, 'nproc=1'], withoutHelper(/limit on its processes/)],
    ['locked memory', [`user=${UID}`, 'memlock'], withoutHelper(/no memory could be mapped/)],
  ])('%s', async (_title, conditions, expected) => {
    await using target = await startAwkward(...conditions);
    await expectLeftAlone(target, expected);
  });
});
