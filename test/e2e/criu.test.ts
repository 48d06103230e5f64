/**
 * Images for CRIU of real processes. What is in them is judged by crit, which decodes images with
 * CRIU's own code and needs nothing of the kernel.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { diffImages, exportImage, type Image, inspectSystem, openImage } from '@sluice/core';
import { expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess, preDumpProcess } from '../harness/patient.js';
import { missingPrograms, runProgram } from '../harness/program.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const PAGE = 4096;
const PRESENT = 4;
const LIMIT_MS = 120_000;

const noCrit = missingPrograms('criu', ['crit']);

interface Decoded {
  magic: string;
  entries: Record<string, number | boolean | Record<string, number>>[];
}

/** Addresses above 2^53 would be rounded; none of these are. */
async function decode(path: string): Promise<Decoded> {
  return JSON.parse(await runProgram('crit', ['decode', '-i', path])) as Decoded;
}

/** Stored pages of private mappings by address, and of objects by inode and page. Naive. */
function expectedPages(image: Image, pid: number): Map<string, Map<number, bigint>> {
  const files = new Map([[`pagemap-${pid}.img`, new Map<number, bigint>()]]);
  const vmas = image.processes[0]?.vmas ?? [];
  for (const { address, pages } of image.runs(pid)) {
    for (let i = 0; i < pages; i += 1) {
      const at = address + BigInt(i * PAGE);
      const vma = vmas.find(({ start, end }) => start <= at && at < end);
      if (vma === undefined) throw new Error(`Nothing mapped at ${at}`);
      if (!vma.shared) files.get(`pagemap-${pid}.img`)?.set(Number(at), at);
      if (!vma.shared || !/^\/(?:dev\/zero \(deleted\)$|SYSV)/.test(vma.path)) continue;
      const name = `pagemap-shmem-${vma.inode}.img`;
      const object = files.get(name) ?? new Map<number, bigint>();
      files.set(name, object);
      object.set(Number(at - vma.start + vma.offset), at);
    }
  }
  return files;
}

it('crit decodes an export, and finds every stored page in it', {
  timeout: LIMIT_MS,
}, async (ctx) => {
  if (noCrit !== undefined) ctx.skip(noCrit);
  await using dir = new TempDir();
  await using target = await startTarget('mappings', [dir.path]);
  await using dump = await dumpOf(target.pid);
  const out = dir.join('out');
  const result = await exportImage(dump.image, out);
  const startTicks = dump.image.processes[0]?.startTimeTicks ?? 0n;
  const expected = expectedPages(dump.image, target.pid);
  expect(expected.size).toBeGreaterThan(1);

  const decoded = new Set<string>();
  for (const name of readdirSync(out)) {
    if (name.startsWith('pages-')) continue;
    const { magic, entries } = await decode(`${out}/${name}`);
    decoded.add(name);
    if (name === 'inventory.img') {
      const uptime = Number(startTicks + 1n) * 10_000;
      const about = { img_version: 1, fdinfo_per_id: true, dump_uptime: uptime, pre_dump_mode: 2 };
      expect({ magic, entries }).toEqual({ magic: 'INVENTORY', entries: [about] });
    } else if (name === 'stats-dump') {
      expect(magic).toBe('STATS');
      const { dump: stats } = entries[0] ?? {};
      const all = Number((stats as Record<string, number>).pages_written);
      const shared = Number((stats as Record<string, number>).shpages_written);
      expect(all + shared).toBe(result.pages_written);
    } else {
      expect(magic).toBe('PAGEMAP');
      const [head, ...runs] = entries;
      const bytes = readFileSync(`${out}/pages-${head?.pages_id}.img`);
      const wanted = [...(expected.get(name) ?? [])].sort(([a], [b]) => a - b);
      let page = 0;
      for (const { vaddr, nr_pages, flags } of runs) {
        expect(flags).toBe(PRESENT);
        for (let i = 0; i < Number(nr_pages); i += 1, page += 1) {
          const [at, address = 0n] = wanted[page] ?? [];
          expect(at, `${name} page ${page}`).toBe(Number(vaddr) + i * PAGE);
          const data = await dump.image.read(target.pid, address, PAGE);
          const written = bytes.subarray(page * PAGE, (page + 1) * PAGE);
          if (!written.equals(data)) throw new Error(`${name}: other bytes at ${address}`);
        }
      }
      expect(page).toBe(wanted.length);
      expect(bytes.length).toBe(page * PAGE);
    }
  }
  expect(decoded).toEqual(new Set(['inventory.img', 'stats-dump', ...expected.keys()]));
});

it('an export reads as the image that it was made of', { timeout: LIMIT_MS }, async () => {
  await using dir = new TempDir();
  await using target = await startTarget('churn', ['still']);
  await using dump = await dumpOf(target.pid);
  const out = dir.join('out');
  const { pages_written } = await exportImage(dump.image, out);
  await using image = await openImage(out);
  await image.verify();
  let pages = 0;
  for (const run of image.runs(target.pid)) {
    pages += run.pages;
    const bytes = await image.read(target.pid, run.address, run.pages * PAGE);
    const source = await dump.image.read(target.pid, run.address, run.pages * PAGE);
    expect(Buffer.compare(bytes, source)).toBe(0);
  }
  expect(pages).toBe(pages_written);
  const same = await diffImages(dump.image, out);
  expect(same).toMatchObject({ equal: true, processes: [{ pages_compared: pages }] });

  const [run] = image.runs(target.pid);
  const file = `${out}/pages-1.img`;
  const bytes = readFileSync(file);
  bytes[0] = (bytes[0] ?? 0) ^ 0xff;
  writeFileSync(file, bytes);
  expect(await diffImages(dump.image, out)).toMatchObject({
    equal: false,
    processes: [{ pages_differing: 1, vmas: [{ first: run?.address }] }],
  });
});

it('the rounds of a dump are images that build on each other', {
  timeout: LIMIT_MS,
}, async (ctx) => {
  if (noCrit !== undefined) ctx.skip(noCrit);
  await using dir = new TempDir();
  await using target = await startTarget('churn', ['still']);
  const { pid } = target;
  const out = dir.join('out');
  const { rounds } = await dumpProcess(pid, { dir: out, format: 'criu', rounds: 2 });
  expect(readdirSync(out).sort()).toEqual([
    'inventory.img',
    `pagemap-${pid}.img`,
    'pages-1.img',
    'parent',
    'round-0001',
    'round-0002',
    'stats-dump',
  ]);
  expect(readlinkSync(`${out}/parent`)).toBe('round-0002');
  expect(readlinkSync(`${out}/parent/parent`)).toBe('../round-0001');
  for (const [index, name] of ['round-0001', 'round-0002', '.'].entries()) {
    const { entries } = await decode(`${out}/${name}/stats-dump`);
    const { pages_written } = rounds[index] ?? {};
    expect(entries[0]?.dump).toMatchObject({ pages_written });
  }
  await using dump = await dumpOf(pid, { rounds: 0 });
  const { processes } = await diffImages(dump.image, out);
  expect(processes).toMatchObject([{ pages_only_in_a: 0, pages_only_in_b: 0 }]);
  // The kernel notes in the thread's memory on which CPU it was last.
  expect(processes[0]?.pages_differing).toBeLessThanOrEqual(1);
});

it('no pre-dump without soft-dirty bits, for nobody could build on it', async (ctx) => {
  if (inspectSystem().checks.find(({ name }) => name === 'softDirty')?.ok) {
    ctx.skip('the kernel has soft-dirty bits');
  }
  await using dir = new TempDir();
  await using target = await startTarget('churn', ['still']);
  const before = viewOf(target.pid);
  const imagesDir = dir.join('out');
  await expect(preDumpProcess(target.pid, { imagesDir })).rejects.toMatchObject({
    code: 'ERR_SLUICE_TRACKER_UNAVAILABLE',
    pid: target.pid,
    thawed: true,
  });
  expect(existsSync(imagesDir)).toBe(false);
  await assertUntouched(target.pid, before);
});
