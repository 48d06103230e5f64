/**
 * For `node --import`: makes calls of the command fail or hang, as SLUICE_TEST_FAULTS says in JSON, and tells
 * on descriptor 3 when the first one did.
 */
import { writeSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import { addon } from '@sluice/native';

if (isMainThread) {
  addon.setFaults(JSON.parse(process.env.SLUICE_TEST_FAULTS ?? '[]'));
  const timer = setInterval(() => {
    if (addon.faultsHit() === 0) return;
    clearInterval(timer);
    writeSync(3, 'hit');
  }, 5).unref();
}
