/** Fails a test file that leaves something behind. */
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { addon } from '@sluice/native';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { childrenOf, descriptorsOf, orGone } from './procfs.js';
import { Program } from './program.js';
import { TestTarget } from './target.js';
import { SmallDisk, TempDir } from './temp.js';
import { scaledMs } from './time.js';
import { waitFor } from './wait.js';

const SETTLE_MS = scaledMs(20_000);

/** To be called at the top of every test file that starts processes. */
export function leakCheck(): void {
  let children: number[];

  beforeAll(() => {
    children = childrenOf(process.pid);
  });

  afterEach(async () => {
    addon.setFaults([]);
    const left = {
      targets: TestTarget.left(),
      programs: Program.left(),
      mounts: SmallDisk.left(),
      directories: TempDir.left(),
    };
    // A test that timed out still holds them: they must not be blamed on the next one, too.
    await TestTarget.killLeft();
    await Program.endLeft();
    await SmallDisk.removeLeft();
    await TempDir.removeLeft();
    expect(left).toEqual({ targets: [], programs: [], mounts: [], directories: [] });
  });

  afterAll(async () => {
    // Tracer tasks and helpers would be children; pipes and pidfds would be open.
    const left = () => ({
      children: childrenOf(process.pid)
        .filter((pid) => !children.includes(pid))
        .map((pid) => orGone(() => readFileSync(`/proc/${pid}/stat`, 'latin1'))),
      descriptors: descriptorsOf(process.pid).filter((text) =>
        /sluice-test-|\/proc\/\d+\/|pidfd/.test(text),
      ),
    });
    const nothing = { children: [], descriptors: [] };
    const clean = () => isDeepStrictEqual(left(), nothing);
    // What ends by itself, like a worker thread, may take a moment.
    await waitFor('nothing is left', clean, SETTLE_MS).catch(() => expect(left()).toEqual(nothing));
  });
}
