/** A dumper that dies at the steps of the tracker that only this kernel has. */
import { it } from 'vitest';
import { dieAtEach, type Work } from '../harness/death.js';
import { leakCheck } from '../harness/leaks.js';
import { startTarget } from '../harness/target.js';
import type { TempDir } from '../harness/temp.js';
import { scaledMs } from '../harness/time.js';

leakCheck();

it('leaves a writing target whole when it dies over its soft-dirty bits', {
  timeout: scaledMs(120_000),
}, async () => {
  await using target = await startTarget('writer', ['8', '5']);
  const options = { lanes: 1, rounds: 2, tracker: 'soft-dirty', consistency: 'copy' };
  const work = (dir: TempDir): Work => ({
    work: 'dump',
    pid: target.pid,
    dir: dir.join('image'),
    options,
  });
  const only = ['bits-reset', 'pages-collected', 'thread-released', 'call-entered', 'cloned'];
  await dieAtEach(target, work, only, 'check', only);
});
