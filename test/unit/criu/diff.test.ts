import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { diffImages, exportImage } from '@sluice/core';
import { describe, expect, test } from 'vitest';
import { sluice } from '../cli/run_sluice.js';
import { writeSmallChain } from '../image/chain_support.js';
import {
  errorOf,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from '../image/support.js';

const at = (page: number) => SMALL_START + BigInt(page * PAGE);

/** One process with mappings of ten pages and two, whose stored pages come in the order of their keys. */
async function imageOf(pages: Record<number, Uint8Array>, pid = 77): Promise<string> {
  const dir = await temporaryDir();
  const numbers = Object.keys(pages).map(Number);
  const records = numbers.map((page, i) => ({
    address: at(page),
    pages: 1,
    shard: 0,
    offset: i * PAGE,
  }));
  await writeTestImage({
    dir,
    shards: [Buffer.concat(Object.values(pages))],
    processes: [
      processOf({
        pid,
        vmas: [vmaOf(at(0), 10, { path: '[heap]' }), vmaOf(at(20), 2)],
        pageTable: pageTableOf(records),
        leftOut: [{ start: at(9), end: at(10), reason: 'poisoned' }],
      }),
    ],
  });
  return dir;
}

const X = pattern(PAGE, 1);
const Y = pattern(PAGE, 2);
const ZERO = new Uint8Array(PAGE);

describe('diffImages()', () => {
  test('finds pages that differ, by mapping', async () => {
    const a = await imageOf({ 0: X, 1: X, 2: X, 3: ZERO, 20: X });
    const b = await imageOf({ 0: X, 1: Y, 4: X, 21: ZERO });
    const none = { pages_only_in_a: 0, pages_only_in_b: 0 };
    expect(await diffImages(a, b)).toEqual({
      equal: false,
      processes: [
        {
          pid_a: 77,
          pid_b: 77,
          pages_compared: 7,
          pages_differing: 4,
          ...none,
          vmas: [
            {
              start: at(0),
              end: at(10),
              kind: 'anonymous',
              path: '[heap]',
              pages_differing: 3,
              ...none,
              first: at(1),
            },
            {
              start: at(20),
              end: at(22),
              kind: 'anonymous',
              path: '',
              pages_differing: 1,
              ...none,
              first: at(20),
            },
          ],
        },
      ],
    });
    expect(await diffImages(a, a)).toMatchObject({ equal: true, processes: [{ vmas: [] }] });
  });

  test('compares a chain with what was made of it, and finds the page that was changed', async () => {
    const dir = await temporaryDir();
    await writeSmallChain(dir);
    const out = join(await temporaryDir(), 'out');
    await exportImage(dir, out);
    expect(await diffImages(dir, out)).toMatchObject({
      equal: true,
      processes: [{ pid_a: 77, pid_b: 7, pages_compared: 8 }],
    });
    const file = join(out, 'pages-1.img');
    const bytes = await readFile(file);
    bytes[6 * PAGE + 5] = 1 ^ (bytes[6 * PAGE + 5] ?? 0);
    await writeFile(file, bytes);
    // The seventh stored page is page 7 of the mapping.
    const changed = { pages_differing: 1, pages_only_in_a: 0, pages_only_in_b: 0 };
    expect(await diffImages(dir, out, { pid: 7 })).toMatchObject({
      equal: false,
      processes: [{ ...changed, vmas: [{ ...changed, first: at(7) }] }],
    });
  });

  test('tells what only one of them has', async () => {
    const a = await imageOf({ 0: X, 9: X });
    const b = await imageOf({ 0: X });
    const only = { pages_differing: 0, pages_only_in_a: 1, pages_only_in_b: 0 };
    expect(await diffImages(a, b)).toMatchObject({
      equal: false,
      processes: [{ ...only, vmas: [{ ...only, first: at(9) }] }],
    });
    expect(await diffImages(b, a)).toMatchObject({ processes: [{ pages_only_in_b: 1 }] });
  });

  test('knows processes by pid, or else by pid in their namespace', async () => {
    const a = await imageOf({ 0: X });
    const moved = await imageOf({ 0: X }, 99);
    expect(await diffImages(a, moved)).toMatchObject({
      equal: true,
      processes: [{ pid_a: 77, pid_b: 99 }],
    });
    const error = await errorOf(diffImages(a, moved, { pid: 5 }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE' });
    const signal = AbortSignal.abort(new Error('enough'));
    expect(await errorOf(diffImages(a, moved, { signal }))).toMatchObject({ code: 'ABORT_ERR' });
  });
});

describe('the command', () => {
  test('sluice diff tells by its status', async () => {
    const a = await imageOf({ 0: X, 1: X });
    const b = await imageOf({ 0: X, 1: Y });
    const same = await sluice('diff', a, a);
    expect(same).toMatchObject({ status: 0, stderr: '' });
    expect(same.stdout.toString()).toBe(
      'Process 77: 0 differ, 0 only in A, 0 only in B, of 2 pages\n',
    );
    const other = await sluice('diff', a, b, '--pid', '77');
    expect(other).toMatchObject({ status: 1, stderr: '' });
    expect(other.stdout.toString()).toContain('Process 77: 1 differ');
    expect(other.stdout.toString()).toContain('0x7f0000001000');
    const json = await sluice('diff', a, b, '--json');
    expect(json).toMatchObject({ status: 1, stderr: '' });
    expect(JSON.parse(json.stdout.toString())).toMatchObject({
      equal: false,
      processes: [{ vmas: [{ start: '0x7f0000000000', first: '0x7f0000001000' }] }],
    });
    const failed = await sluice('diff', a, join(b, 'nothing'));
    expect(failed.status).toBe(1);
    expect(failed.stderr).toMatch(/^sluice: ERR_SLUICE_IMAGE_NOT_FOUND: /);
  });

  test('sluice export writes and tells, and refuses formats that it does not know', async () => {
    const dir = await imageOf({ 0: X });
    const out = join(await temporaryDir(), 'out');
    const people = await sluice('export', dir, '--format', 'criu', '--out', out);
    expect(people).toMatchObject({ status: 0, stderr: '' });
    const line = `Exported ${dir} (1 image) to ${out} for CRIU, 0.0 MiB in 1 page\n`;
    expect(people.stdout.toString()).toBe(line);
    const json = await sluice('export', dir, '--format', 'criu', '--out', `${out}2`, '--json');
    expect(JSON.parse(json.stdout.toString())).toMatchObject({ format: 'criu', pages_written: 1 });
    const unknown = await sluice('export', dir, '--format', 'core', '--out', `${out}3`);
    expect(unknown.status).toBe(2);
    const inspected = await sluice('inspect', out);
    expect(inspected.stdout.toString()).toContain('by CRIU img_version 1');
  });
});
