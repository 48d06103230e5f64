import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { smallMemory, writeSmallChain } from '../image/chain_support.js';
import {
  PAGE,
  pageTableOf,
  processOf,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from '../image/support.js';
import { outcomeOf, sluice, startSluice } from './run_sluice.js';

describe('sluice flatten', () => {
  it('makes one image of a chain, which reads as the chain does', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    const out = join(await temporaryDir(), 'flat');
    const people = await sluice('flatten', dir, '--out', out);
    expect(people).toMatchObject({ status: 0, stderr: '' });
    expect(people.stdout.toString()).toBe(
      `Flattened ${dir} (3 images) to ${out}, 0.0 MiB in 8 pages\n`,
    );
    const json = await sluice('flatten', dir, '--out', `${out}-2`, '--checksum', 'none', '--json');
    expect(json).toMatchObject({ status: 0, stderr: '' });
    expect(JSON.parse(json.stdout.toString())).toEqual({
      dir: `${out}-2`,
      pages_written: 8,
      bytes_written: 8 * PAGE,
      images: 3,
    });
    for (const image of [dir, out, `${out}-2`]) {
      const range = [String(SMALL_START), String(12 * PAGE)];
      const { status, stdout } = await sluice('read', image, '77', ...range);
      expect({ status, same: stdout.equals(smallMemory()) }).toEqual({ status: 0, same: true });
    }
    const verified = await sluice('verify', dir);
    expect(verified.stdout.toString()).toContain('8 checksums of pages hold (3 images, 3 shards');
    const inspected = await sluice('inspect', dir, '--json');
    expect(JSON.parse(inspected.stdout.toString()).chain).toHaveLength(3);
  });

  it('fails with 1 and one line, and leaves what is there', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    const out = await temporaryDir();
    await writeFile(join(out, 'notes'), '');
    const { status, stdout, stderr } = await sluice('flatten', dir, '--out', out, '--json');
    expect({ status, stdout: stdout.toString() }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: ERR_SLUICE_OUTPUT_EXISTS: [^\n]+\n$/);
    expect(await readdir(out)).toEqual(['notes']);
  });

  it('ends at SIGINT and leaves nothing', async () => {
    const dir = await temporaryDir();
    const pages = 2 ** 19;
    const shard = { file: 'shard-0000.img', bytes: pages * PAGE, crcs: new Uint32Array() };
    // A hole of 2 GiB: there is time until it is copied.
    await writeFile(join(dir, shard.file), '');
    await truncate(join(dir, shard.file), shard.bytes);
    const pageTable = pageTableOf([{ address: SMALL_START, pages, shard: 0, offset: 0 }]);
    const processes = [processOf({ vmas: [vmaOf(SMALL_START, pages)], pageTable })];
    await writeTestImage({ dir, processes, more: { shards: [shard], checksum: 'none' } });
    const parent = await temporaryDir();
    const out = join(parent, 'flat');
    const child = startSluice(['flatten', dir, '--out', out]);
    const ended = outcomeOf(child);
    await once(child, 'spawn');
    while (child.exitCode === null && !existsSync(join(out, shard.file))) await setTimeout(5);
    child.kill('SIGINT');
    const { status, stdout, stderr } = await ended;
    expect(stderr).toBe(
      'sluice: ABORT_ERR: The operation was aborted by SIGINT (Nothing was kept.)\n',
    );
    expect({ status, stdout: stdout.toString() }).toEqual({ status: 130, stdout: '' });
    expect(await readdir(parent)).toEqual([]);
  });
});
