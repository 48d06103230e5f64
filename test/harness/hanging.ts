/** The command, which hangs in a call: something can be done to it before it ends, however fast it is. */
import { type ChildProcess, spawn } from 'node:child_process';
import { SLUICE } from '../unit/cli/run_sluice.js';
import { type FaultSpec, toFaults } from './faults.js';
import { patiently } from './patient.js';
import { waitFor } from './wait.js';

const PRELOAD = new URL('faults_preload.mjs', import.meta.url).href;

/** Starts it; resolves when it hangs in one of these calls. */
export async function startHanging(
  args: readonly string[],
  fault: Pick<FaultSpec, 'call' | 'skip'>,
): Promise<ChildProcess> {
  const faults = toFaults([{ ...fault, times: 1, mode: 'hang' }]);
  const child = spawn(process.execPath, ['--import', PRELOAD, SLUICE, ...patiently(args)], {
    env: { ...process.env, SLUICE_TEST_FAULTS: JSON.stringify(faults) },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  let hit = false;
  child.stdio[3]?.on('data', () => {
    hit = true;
  });
  await waitFor('it hangs', () => hit || child.exitCode !== null);
  if (!hit) throw new Error(`It ended with ${child.exitCode} and did not hang`);
  return child;
}
