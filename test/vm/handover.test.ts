/** CRIU builds on what Sluice has pre-dumped, and restores it. */
import { mkdirSync } from 'node:fs';
import { diffImages, exportImage, openImage, type SluiceError } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { dumpProcess, preDumpProcess } from '../harness/patient.js';
import { runProgram } from '../harness/program.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { Counter, KINDS } from './counter.js';
import { criu } from './criu.js';
import { softDirtyPages } from './soft_dirty.js';

leakCheck();

const PAGES = 512;
const PE_PARENT = 1;
const PE_PRESENT = 4;
/** Pages that CRIU itself writes to while it works in the process. */
const MOST_OF_CRIU = 8;

/** What crit makes of an image: CRIU's own code. */
async function decode(path: string): Promise<Record<string, number>[]> {
  return JSON.parse(await runProgram('crit', ['decode', '-i', path])).entries;
}

async function statsOf(dir: string): Promise<Record<string, number>> {
  const [entry] = await decode(`${dir}/stats-dump`);
  return (entry?.dump ?? {}) as Record<string, number>;
}

/** Runs of pages by address: here, or in the parent. */
async function decodedRuns(dir: string, pid: number): Promise<string[]> {
  const [, ...entries] = await decode(`${dir}/pagemap-${pid}.img`);
  return entries.map(({ vaddr, nr_pages, flags }) => {
    expect([PE_PARENT, PE_PRESENT]).toContain(flags);
    return `${vaddr}: ${nr_pages} ${flags === PE_PARENT ? 'in the parent' : 'here'}`;
  });
}

/** The same by Sluice. */
async function readRuns(dir: string, pid: number): Promise<string[]> {
  await using image = await openImage(dir);
  const runs: { start: bigint; end: bigint; here: boolean }[] = [];
  for (const { address, pages, image: level } of image.runs(pid)) {
    const end = address + BigInt(pages) * 4096n;
    const last = runs.at(-1);
    if (last?.end === address && last.here === (level === 0)) last.end = end;
    else runs.push({ start: address, end, here: level === 0 });
  }
  return runs.map(
    ({ start, end, here }) =>
      `${start}: ${(end - start) / 4096n} ${here ? 'here' : 'in the parent'}`,
  );
}

/** Addresses of the pages that the newest image of a directory stores itself. */
async function storedPages(dir: string): Promise<Set<bigint>> {
  await using image = await openImage(dir);
  const pages = new Set<bigint>();
  for (const { pid } of image.processes) {
    for (const run of image.runs(pid)) {
      if (run.image > 0) continue;
      for (let i = 0; i < run.pages; i++) pages.add(run.address + BigInt(i) * 4096n);
    }
  }
  return pages;
}

describe('criu dump and criu restore go on from a pre-dump of', () => {
  it.each(KINDS)('a process (%s)', async (kind) => {
    await using dir = new TempDir();
    await using counter = await Counter.start(dir, kind, PAGES);
    const { pid } = counter;
    const before = viewOf(pid);
    const first = await preDumpProcess(pid, { imagesDir: dir.join('1') });
    expect(first).toMatchObject({ pid, pages_skipped_parent: 0, warnings: [] });
    expect(first.pages_written).toBeGreaterThan(kind === 'shared' ? 0 : PAGES);
    await assertUntouched(pid, before, { busy: true });
    await counter.check();

    const second = await preDumpProcess(pid, {
      imagesDir: dir.join('2'),
      prevImagesDir: '../1',
    });
    expect(second.pages_skipped_parent).toBeGreaterThan(0);
    const vpid = kind === 'namespace' ? 1 : pid;
    expect(await decodedRuns(dir.join('2'), vpid)).toEqual(await readRuns(dir.join('2'), vpid));
    expect(await statsOf(dir.join('2'))).toMatchObject({
      frozen_time: second.frozen_time,
      pages_written: second.pages_written,
      pages_skipped_parent: second.pages_skipped_parent,
    });
    await counter.stop();
    // CRIU stores these in any case.
    const hidden = softDirtyPages(pid, ({ protection }) => !protection.startsWith('r'));
    const written = softDirtyPages(pid, ({ shared }) => !shared);

    mkdirSync(dir.join('3'));
    await counter.dump(dir.join('3'), ['--track-mem', '--prev-images-dir', '../2']);
    const stats = await statsOf(dir.join('3'));
    if (kind !== 'hidden') {
      expect(stats.pages_written).toBeLessThanOrEqual(written.size + MOST_OF_CRIU);
      const others = [...(await storedPages(dir.join('3')))].filter((page) => !written.has(page));
      expect(others.length - Number(stats.shpages_written)).toBeLessThanOrEqual(MOST_OF_CRIU);
    }
    expect(hidden.size > 0).toBe(kind === 'hidden');
    expect(stats.pages_skipped_parent).toBeGreaterThan(0);

    counter.restore(dir.join('3'));
    process.kill(counter.pid, 'SIGCONT');
    await counter.check();
  });

  it('what is exported of a dump', async () => {
    await using dir = new TempDir();
    await using counter = await Counter.start(dir, 'plain', PAGES);
    await dumpProcess(counter.pid, { dir: dir.join('image'), rounds: 2, tracker: 'soft-dirty' });
    await exportImage(dir.join('image'), dir.join('1'));
    mkdirSync(dir.join('2'));
    await counter.dump(dir.join('2'), ['--track-mem', '--prev-images-dir', '../1']);
    counter.restore(dir.join('2'));
    await counter.check();
  });

  it('a dump whose rounds were written for it', async () => {
    await using dir = new TempDir();
    await using counter = await Counter.start(dir, 'plain', PAGES);
    const result = await dumpProcess(counter.pid, {
      dir: dir.join('1'),
      rounds: 2,
      format: 'criu',
    });
    expect(result.rounds.map(({ frozen_time }) => frozen_time > 0)).toEqual([true, true, true]);
    mkdirSync(dir.join('2'));
    await counter.dump(dir.join('2'), ['--track-mem', '--prev-images-dir', '../1']);
    expect((await statsOf(dir.join('2'))).pages_skipped_parent).toBeGreaterThan(0);
    counter.restore(dir.join('2'));
    await counter.check();
  });
});

it.each(['shared', 'threads', 'hidden'] as const)(
  'CRIU and Sluice dump the same memory (%s)',
  async (kind) => {
    await using dir = new TempDir();
    // On one CPU: CRIU runs code of its own in stopped threads, and when one goes on on another CPU,
    // the kernel writes the number of that to its memory, for restartable sequences (rseq(2)).
    const launcher = ['taskset', '--cpu-list', '0'];
    await using counter = await Counter.start(dir, kind, PAGES, launcher);
    await counter.stop();
    await dumpProcess(counter.pid, { dir: dir.join('sluice'), rounds: 0 });
    mkdirSync(dir.join('criu'));
    criu('dump', dir.join('criu'), ['--tree', `${counter.pid}`, '--leave-stopped']);
    const { equal, processes } = await diffImages(dir.join('sluice'), dir.join('criu'));
    expect(processes).toMatchObject([{ pages_differing: 0, vmas: [] }]);
    expect(equal).toBe(true);
    expect(processes[0]?.pages_compared).toBeGreaterThan(PAGES);
  },
);

it('the freeze is at most a fifth of that of criu pre-dump', async () => {
  await using dir = new TempDir();
  await using counter = await Counter.start(dir, 'plain', 32_768);
  const times = { sluice: [] as number[], criu: [] as number[] };
  const least = (of: 'sluice' | 'criu') => Math.min(...times[of]);
  const isShort = () => least('sluice') < least('criu') / 5;
  // The machine that this one runs on may be busy with something else for a while.
  for (let round = 0; round < 3 || (round < 10 && !isShort()); round++) {
    const images = dir.join(`criu-${round}`);
    mkdirSync(images);
    criu('pre-dump', images, ['--tree', `${counter.pid}`, '--track-mem']);
    times.criu.push(Number((await statsOf(images)).frozen_time));
    const imagesDir = dir.join(`sluice-${round}`);
    times.sluice.push((await preDumpProcess(counter.pid, { imagesDir })).frozen_time);
  }
  console.log('frozen, us:', times);
  expect(isShort()).toBe(true);
});

describe('a parent is refused that', () => {
  async function refusal(dir: TempDir, pid: number, prevImagesDir: string) {
    const imagesDir = dir.join('refused');
    return preDumpProcess(pid, { imagesDir, prevImagesDir }).then(
      () => 'none',
      ({ code, message }: SluiceError) => `${code}: ${message}`,
    );
  }

  it('does not exist, is absolute, or is of another process', async () => {
    await using dir = new TempDir();
    await using other = new TempDir();
    await using counter = await Counter.start(dir, 'plain', PAGES);
    await using another = await Counter.start(other, 'plain', PAGES);
    await preDumpProcess(another.pid, { imagesDir: dir.join('1') });
    const { pid } = counter;
    expect(await refusal(dir, pid, '../none')).toMatch(/^ERR_SLUICE_PARENT: .*no such directory/);
    expect(await refusal(dir, pid, dir.join('1'))).toMatch(/^ERR_SLUICE_OPTION: .*path from/);
    expect(await refusal(dir, pid, '../1')).toMatch(
      new RegExp(`^ERR_SLUICE_PARENT: .*has no pagemap-${pid}\\.img`),
    );
  });

  it('was made before the process started', async () => {
    await using dir = new TempDir();
    await using before = await Counter.start(dir, 'namespace', PAGES);
    await preDumpProcess(before.pid, { imagesDir: dir.join('1') });
    await using later = new TempDir();
    // The same pid in its own namespace: 1.
    await using after = await Counter.start(later, 'namespace', PAGES);
    expect(await refusal(dir, after.pid, '../1')).toMatch(
      /^ERR_SLUICE_PARENT: .*made before process 1 started/,
    );
  });
});
