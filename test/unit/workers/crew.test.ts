import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addon } from '@sluice/native';
import { createCrew } from '@sluice/workers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { waitFor } from '../../harness/wait.js';

const NO_SESSION = 123_456;

describe('createCrew', () => {
  let dir: string;

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'sluice-crew-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('brings errors of the addon over from every kind of worker', async () => {
    const crew = createCrew({ lanes: 2, drains: 2 });
    const coded = { code: expect.stringMatching(/^ERR_SLUICE_/) };
    await expect(crew.control.call('controlAttach', NO_SESSION)).rejects.toMatchObject(coded);
    for (const [index, lane] of crew.lanes.entries()) {
      await expect(lane.call('laneCapture', NO_SESSION, index, 0, 0)).rejects.toMatchObject(coded);
    }
    await expect(crew.drains.call('drainRun', NO_SESSION, 0, 0, 0)).rejects.toMatchObject(coded);
    await crew.close();
  });

  it('runs drain calls on the addon', async () => {
    const file = join(dir, 'bytes');
    const bytes = Buffer.alloc(10_000, 'sluice');
    writeFileSync(file, bytes);
    const crew = createCrew({ lanes: 1, drains: 2 });
    const crcs = await Promise.all(
      [4096, 10_000, 3].map((piece) => crew.drains.call('crc32cFile', file, bytes.length, piece)),
    );
    expect(crcs.map((list) => list.length)).toEqual([3, 1, 3334]);
    expect(crcs[1]?.[0]).toBe(addon.crc32c(bytes, 0));
    await crew.close();
  });

  it('can be closed at once and twice, and refuses calls then', async () => {
    const crew = createCrew({ lanes: 1, drains: 1 });
    await crew.close();
    await crew.close();
    const dead = { code: 'ERR_SLUICE_WORKER' };
    await expect(crew.control.call('controlAttach', NO_SESSION)).rejects.toMatchObject(dead);
    await expect(crew.drains.call('drainRun', NO_SESSION, 0, 0, 0)).rejects.toMatchObject(dead);
  });

  it('lets the process end after close, without being told to', () => {
    const workers = import.meta.resolve('@sluice/workers');
    const script = `
      import { createCrew } from ${JSON.stringify(workers)};
      const crew = createCrew({ lanes: 2, drains: 1 });
      await crew.control.call('controlAttach', ${NO_SESSION}).catch(() => {});
      await crew.close();
      process.stdout.write('closed');`;
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', script],
      { encoding: 'utf8', timeout: 20_000 },
    );
    expect({ stdout, stderr, status }).toEqual({ stdout: 'closed', stderr: '', status: 0 });
  });

  it('burns no CPU while idle', async () => {
    const crew = createCrew({ lanes: 4, drains: 2 });
    await crew.control.call('controlAttach', NO_SESSION).catch(() => {});
    // Its workers may still be starting: sooner or later there must be a time in which it rests.
    await waitFor('it rests', async () => {
      const before = process.cpuUsage();
      await new Promise((resolve) => setTimeout(resolve, 500));
      const { user, system } = process.cpuUsage(before);
      return user + system < 250_000;
    });
    await crew.close();
  });
});
