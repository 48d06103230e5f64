/** Dumps of all sizes with both capture backends: what `cpu` and `memory` are made of. */
import { type Bench, Skipped } from '../bench.js';
import { sizeName } from '../report.js';
import type { DumpSample } from '../sample.js';
import { interleave, of } from '../statistics.js';

export const BACKENDS = ['vmsplice', 'read'] as const;
export type Backend = (typeof BACKENDS)[number];

/** Runs of one size; the n-th of one backend was made beside the n-th of the other. */
export interface BackendRuns {
  mib: number;
  runs: Record<Backend, DumpSample[]>;
}

const collected = new WeakMap<Bench, Promise<BackendRuns[]>>();

/** The same runs whenever it is called. */
export function backendRuns(bench: Bench): Promise<BackendRuns[]> {
  const runs = collected.get(bench) ?? collect(bench);
  collected.set(bench, runs);
  return runs;
}

async function collect(bench: Bench): Promise<BackendRuns[]> {
  bench.largeSizes();
  const { capture, captureReason } = await bench.defaults();
  if (capture !== 'vmsplice') throw new Skipped(`no vmsplice here: ${captureReason}`);
  const all: BackendRuns[] = [];
  for (const mib of bench.sizes()) {
    const runs = await bench.withTarget(mib, (target) =>
      interleave(bench.options.runs, BACKENDS, (capture, round) => {
        bench.tell(`backends, ${sizeName(mib)}, run ${round + 1}: ${capture}`);
        return bench.dump(target, { capture, checksum: 'none', rounds: 0, consistency: 'copy' });
      }),
    );
    all.push({ mib, runs: { vmsplice: of(runs, 'vmsplice'), read: of(runs, 'read') } });
  }
  return all;
}
