import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { stateOf, threadOf } from '../core_dump/support.js';
import {
  at,
  PAGE,
  pageTableOf,
  processOf,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from '../image/support.js';
import { sluice } from './run_sluice.js';

/** Of two pages, of which one could not be read. */
async function makeImage(): Promise<string> {
  const dir = await temporaryDir();
  const process = processOf({
    vmas: [vmaOf(at(0), 2, { path: '[heap]' })],
    pageTable: pageTableOf([{ address: at(0), pages: 1, shard: 0, offset: 0 }]),
    leftOut: [{ start: at(1), end: at(2), reason: 'poisoned' }],
    threads: [threadOf(77)],
    state: stateOf(),
  });
  await writeTestImage({ dir, shards: [new Uint8Array(PAGE)], processes: [process] });
  return dir;
}

describe('sluice core', () => {
  const note = `  note: 0x${at(1).toString(16)}-0x${at(2).toString(16)} is not in it: poisoned\n`;

  it('says what it holds where the core is not, and nothing where it is', async () => {
    const image = await makeImage();
    const out = join(await temporaryDir(), 'core');
    const toFile = await sluice('core', image, '--out', out);
    expect({ status: toFile.status, stderr: toFile.stderr }).toEqual({ status: 0, stderr: '' });
    expect(toFile.stdout.toString()).toContain(note);
    const toPipe = await sluice('core', image, '--out', '-');
    expect(toPipe.status).toBe(0);
    expect(toPipe.stdout.equals(await readFile(out))).toBe(true);
    expect(toPipe.stderr).toMatch(/^Wrote a core of process \d+ in .* to standard output\n/);
    expect(toPipe.stderr).toContain(note);
  });

  it('does so in JSON, too', async () => {
    const image = await makeImage();
    const out = join(await temporaryDir(), 'core');
    const toFile = await sluice('core', image, '--out', out, '--json');
    expect({ status: toFile.status, stderr: toFile.stderr }).toEqual({ status: 0, stderr: '' });
    const told = JSON.parse(toFile.stdout.toString());
    expect(told).toMatchObject({ out, left_out: [{ reason: 'poisoned' }] });
    const toPipe = await sluice('core', image, '--out', '-', '--json');
    expect(toPipe.status).toBe(0);
    expect(toPipe.stdout.equals(await readFile(out))).toBe(true);
    expect(toPipe.stderr).toMatch(/^\{.*\}\n$/);
    const same = { ...told, out: null, write_time: expect.any(Number) };
    expect(JSON.parse(toPipe.stderr)).toEqual(same);
  });
});
