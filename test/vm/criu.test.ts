/** What CRIU alone does here: tests of Sluice and CRIU together build on it. */
import { mkdirSync, statSync } from 'node:fs';
import { expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { TempDir } from '../harness/temp.js';
import { Counter } from './counter.js';
import { criu } from './criu.js';

leakCheck();

it('a process is dumped after a pre-dump, restored, and runs on', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'plain', 4096);
  for (const name of ['before', 'last']) mkdirSync(dir.join(name));
  criu('pre-dump', dir.join('before'), ['--tree', `${counter.pid}`, '--track-mem']);
  await counter.dump(dir.join('last'), ['--track-mem', '--prev-images-dir', '../before']);
  const bytes = (name: string) => statSync(dir.join(name, 'pages-1.img')).size;
  expect(bytes('before')).toBeGreaterThan(counter.pages * 4096);
  expect(bytes('last')).toBeLessThan(bytes('before'));
  counter.restore(dir.join('last'));
  await counter.check();
});
