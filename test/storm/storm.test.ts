/**
 * SIGKILLs of the dumper at random instants, in all kinds of work, over targets that check their memory and
 * the registers of their threads all the time.
 *
 *   SLUICE_STORM_KILLS   how many; the default is a few minutes' worth
 *   SLUICE_STORM_SEED    for the same choices once more; the instants are never quite the same
 */
import { cleanTarget } from '@sluice/core';
import { afterAll, describe, expect, it } from 'vitest';
import { diesAfter, expectFree, type Work } from '../harness/death.js';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { childrenOf, readStatus } from '../harness/procfs.js';
import { type ChildTarget, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { scaledMs } from '../harness/time.js';
import { assertClean } from '../harness/untouched.js';

leakCheck();

const KILLS = Number(process.env.SLUICE_STORM_KILLS ?? 160);
const SEED = Number(process.env.SLUICE_STORM_SEED ?? Date.now() % 1_000_000);

interface Victim {
  name: string;
  start(dir: TempDir): Promise<ChildTarget>;
  /** What it is asked after each kill. */
  check: string;
  /** It makes threads and children itself. */
  children?: true;
}

const VICTIMS: readonly Victim[] = [
  {
    // Who is let go by the kernel gets the EINTR that the kernel gives.
    name: '70 threads in as many system calls, with live registers',
    start: (dir) => startTarget('threads64', [dir.path]),
    check: 'check stopped',
    children: true,
  },
  {
    name: 'a program that writes',
    start: () => startTarget('writer', ['8', '50']),
    check: 'check',
  },
  {
    name: 'a program that forks with vfork',
    start: () => startTarget('churn', ['vfork', '2000']),
    check: 'check',
    children: true,
  },
  {
    name: 'a program that makes threads',
    start: () => startTarget('churn', ['threads', '200']),
    check: 'check',
    children: true,
  },
  {
    name: 'a program behind a seccomp filter',
    start: () => startTarget('seccomp', ['process']),
    check: 'check',
  },
];

const WAYS: readonly Omit<Work, 'pid' | 'dir'>[] = [
  { work: 'dump', options: { lanes: 2 } },
  { work: 'dump', options: { lanes: 1, rounds: 2, consistency: 'copy' } },
  { work: 'dump', options: { rounds: 0, consistency: 'twin' } },
  { work: 'dump', options: { capture: 'read', tracker: 'none' } },
  { work: 'hold', options: { lanes: 2 } },
  { work: 'core' },
];

/** Numbers from 0 up to 1 that follow from a seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe(`SIGKILL at any instant (seed ${SEED})`, () => {
  const counts = { kills: 0, late: 0, cleaned: 0 };
  afterAll(() => {
    const { kills, late, cleaned } = counts;
    process.stdout.write(
      `storm: ${kills} dumpers killed, ${late} ended before; ${cleaned} left something to be removed\n`,
    );
  });

  VICTIMS.forEach((victim, index) => {
    const kills = Math.ceil(KILLS / VICTIMS.length);
    const timeout = scaledMs(60_000 + kills * 10_000);
    it(`does no harm to ${victim.name}`, { timeout }, async () => {
      const random = randomNumbers(SEED + index);
      await using dir = new TempDir();
      await using target = await victim.start(dir);
      const { pid } = target;
      const mask = readStatus(pid).get('SigBlk');
      const lasted = new Map<object, number>();
      for (let kill = 0; kill < kills; kill++) {
        const way = WAYS[Math.floor(random() * WAYS.length)] ?? WAYS[0];
        if (way === undefined) throw new Error('There is no way');
        await using out = new TempDir();
        const work = { ...way, pid, dir: out.join('out') };
        let full = lasted.get(way);
        if (full === undefined) {
          await using whole = new TempDir();
          full = await diesAfter({ ...work, dir: whole.join('out') }, 60_000);
          lasted.set(way, full);
        }
        const ms = full * random();
        counts[(await diesAfter(work, ms)) < ms ? 'late' : 'kills']++;
        await expectFree(pid);
        await target.check(victim.check);
        const { mappings, zombies } = await cleanTarget(pid);
        if (mappings + zombies > 0) counts.cleaned++;
        await assertClean(pid);
        expect(readStatus(pid).get('SigBlk')).toBe(mask);
        if (!victim.children) expect(childrenOf(pid)).toEqual([]);
      }
      await using dump = await dumpOf(pid);
      await dump.image.verify();
      await target.check(victim.check);
    });
  });
});
