// A dumper in a process of its own, to be killed: says that it begins, does one piece of work on a
// target and prints how often it came to each step. Usage: node work.mjs '{"work": ..., "pid": ..., ...}', see death.ts
import { cleanTarget, coreProcess, dumpProcess, restoreInto } from '@sluice/core';
import { addon } from '@sluice/native';

const { work, pid, dir, options, step, times } = JSON.parse(process.argv[2]);

/** As in patient.ts. */
const PATIENT = { freezeTimeoutMs: 60_000 };

const WORKS = {
  dump: () => dumpProcess(pid, { ...PATIENT, ...options, dir }),
  hold: async () => {
    const { held } = await dumpProcess(pid, { ...PATIENT, ...options, dir, after: 'stop' });
    await held.resume();
  },
  core: () => coreProcess(pid, { ...PATIENT, ...options, out: dir }),
  restore: () => restoreInto(pid, dir, { force: true, ...PATIENT, ...options }),
  clean: () => cleanTarget(pid),
};

addon.watchSteps(step ?? '', times ?? 0);
process.stdout.write('begins\n');
await WORKS[work]();
process.stdout.write(JSON.stringify(addon.stepCounts()));
