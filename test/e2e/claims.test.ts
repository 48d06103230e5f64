/** Why dumps in rounds are made as they are, and the cases in which a simpler way would be wrong. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { type DumpOptions, type DumpResult, type Image, openImage } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import {
  dumpOf,
  failedDumpOf,
  failureOf,
  followRounds,
  type Options,
  storedRanges,
} from '../harness/dump.js';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld, whileStopped } from '../harness/oracle.js';
import { dumpProcess } from '../harness/patient.js';
import { readStatus, readVmFlags, stateOf, threadsOf } from '../harness/procfs.js';
import { type ChildTarget, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor, within } from '../harness/wait.js';

leakCheck();

const PAGE = 4096n;
/** Enough that what is done as the second begins is over long before the last. */
const MANY_ROUNDS = 40;
const MANY_FULL_ROUNDS = 12;
const MOST_ROUNDS = 256;
const hasSwap = readFileSync('/proc/swaps', 'latin1').trim().split('\n').length > 1;

describe('vmsplice makes no copy', () => {
  it('a page given to a pipe and then changed reads changed', async () => {
    await using dir = new TempDir();
    await using target = await startHazards(dir);
    expect(await target.command('gift')).toEqual({ ok: true });
  });
});

describe('a chain of a writing target', () => {
  it('never breaks what holds at any instant, and single rounds do', {
    timeout: 120_000,
  }, async () => {
    await using target = await startTarget<WriterInfo>('writer', ['8', '200']);
    let torn = 0;
    for (let turn = 0; turn < 12 || (torn === 0 && turn < 60); turn++) {
      await using dir = new TempDir();
      const path = dir.join('image');
      const options = { dir: path, rounds: 1 + (turn % 3), lanes: 1 + (turn % 2) };
      await within('a dump', dumpProcess(target.pid, options));
      await using chain = await openImage(path);
      expect(chain.manifest.consistency).toBe('frozen');
      expect(await isOneInstant(chain, target.info)).toBe(true);
      await using round = await openImage(`${path}/round-0001`);
      expect(round.manifest.consistency).toBe('live');
      if (!(await isOneInstant(round, target.info))) torn++;
    }
    expect(torn).toBeGreaterThan(0);
    await target.check();
  });
});

describe('the chain is exact when between rounds', () => {
  it('pages are dropped, and mappings replaced', async () => {
    await hazard('drop', async ({ image, info }) => {
      const dropped = await image.read(info.pid, BigInt(info.memory) + 8n * PAGE, 8 * 4096);
      expect(dropped.every((byte) => byte === 0)).toBe(true);
      const renewed = await image.read(info.pid, BigInt(info.memory) + 16n * PAGE, 4 * 4096);
      expect(renewed.every((byte) => byte === 0)).toBe(true);
    });
  });

  it('mappings move, and new ones come', () => hazard('move'));

  it('memory is hidden with PROT_NONE', () => hazard('hide'));

  it('another process writes to shared memory', () => hazard('shared'));

  it('the target opens a userfaultfd of its own', async (ctx) => {
    await using dir = new TempDir();
    await using probe = await startHazards(dir);
    if (!(await probe.command('userfault')).ok) ctx.skip('no userfaultfd for this user');
    await hazard('userfault');
  });

  it('pages are swapped out', async (ctx) => {
    if (!hasSwap) ctx.skip('no swap');
    await hazard('page-out');
  });

  it('zero pages and pages of a file are only read: they are not stored', async () => {
    await hazard('look', async ({ image, info }) => {
      for (const start of [BigInt(info.zeros), BigInt(info.file)]) {
        const end = start + 16n * PAGE;
        const stored = storedRanges(image, info.pid);
        expect(stored.filter((range) => range.start < end && range.end > start)).toEqual([]);
      }
    });
  });
});

describe('a dump in rounds', () => {
  it('costs a huge sparse mapping next to no page tables', async () => {
    await using dir = new TempDir();
    await using target = await startHazards(dir, ['sparse']);
    const tableKib = () => Number.parseInt(readStatus(target.pid).get('VmPTE') ?? '', 10);
    const before = tableKib();
    const path = dir.join('image');
    const result = await within(
      'a dump',
      dumpProcess(target.pid, { dir: path, rounds: 3, tracker: 'uffd-wp', after: 'stop' }),
    );
    const during = tableKib();
    await using held = heldOf(result);
    await compareHeld(target.pid, path);
    await held.resume();
    expect(during).toBeLessThan(before + 256);
    await target.check();
  });

  for (const [command, code] of [
    ['exec', 'ERR_SLUICE_TARGET_EXECED'],
    ['end', 'ERR_SLUICE_TARGET_EXITED'],
  ] as const) {
    it(`fails well when the target does ${command} between rounds`, async () => {
      await using dir = new TempDir();
      await using target = await startHazards(dir);
      const path = dir.join('image');
      const dump = dumpProcess(target.pid, { dir: path, rounds: 250, tracker: 'uffd-wp' });
      const done = atRound(path, dump, 2, () => target.send(command));
      expect(await failureOf(dump)).toMatchObject({ code });
      await done;
      expect(readdirSync(dir.path)).toEqual(['file']);
      if (command === 'end') return target.ended();
      await target.nextLine();
      expectNoTrace(target.pid);
      await target.check();
    });
  }

  it('that is aborted in the middle of rounds leaves nothing', { timeout: 120_000 }, async () => {
    await using target = await startTarget('writer', ['16', '200']);
    const before = viewOf(target.pid);
    for (const round of [1, 2, 3, 8, 20]) {
      await using dir = new TempDir();
      const controller = new AbortController();
      const path = dir.join('image');
      const dump = dumpProcess(target.pid, {
        dir: path,
        rounds: 100,
        tracker: 'uffd-wp',
        signal: controller.signal,
      });
      const done = atRound(path, dump, round, () => controller.abort());
      await expect(within('an aborted dump', dump)).rejects.toMatchObject({ name: 'AbortError' });
      await done;
      expect(readdirSync(dir.path)).toEqual([]);
      await assertUntouched(target.pid, before, { busy: true });
      expectNoTrace(target.pid);
    }
    await target.check();
  });
});

describe('faults in rounds', () => {
  const tracked = { rounds: 3, tracker: 'uffd-wp', lanes: 1, drains: 1 } as const;
  const overcome: { title: string; faults: FaultSpec[]; options?: object; result?: object }[] = [
    {
      title: 'a round that fails once is taken again',
      faults: [{ call: 'remote:vmsplice', errno: 'ENOMEM', times: 1 }],
      options: { capture: 'vmsplice' },
      result: { warnings: [expect.stringContaining('taken again')] },
    },
    {
      title: 'a later round that fails once is taken again',
      faults: [{ call: 'remote:vmsplice', errno: 'ENOMEM', skip: 2, times: 1 }],
      options: { capture: 'vmsplice' },
    },
    {
      title: 'mappings that cannot be watched are taken whole',
      faults: [{ call: 'ioctl:UFFDIO_REGISTER', errno: 'EBUSY' }],
      result: { tracker: 'uffd-wp' },
    },
    {
      title: 'without userfaultfd there is no tracker',
      faults: [{ call: 'remote:userfaultfd', errno: 'EPERM' }],
      options: { tracker: 'auto' },
      result: { tracker: 'none', tracker_reason: expect.stringContaining('userfaultfd') },
    },
    {
      title: 'a vmsplice that copies',
      faults: [{ call: 'remote:vmsplice', mode: 'copy' }],
      options: { capture: 'vmsplice' },
      result: { capture: 'vmsplice', tracker: 'uffd-wp' },
    },
  ];
  for (const { title, faults, options = {}, result = {} } of overcome) {
    it(title, async () => {
      await using dir = new TempDir();
      await using target = await startHazards(dir);
      const { pid } = target;
      const before = viewOf(pid);
      await using dump = await withFaults(faults, () => dumpOf(pid, { ...tracked, ...options }));
      await assertUntouched(pid, before);
      expectNoTrace(pid);
      expect(dump.result).toMatchObject(result);
      await dump.image.verify();
      await whileStopped(pid, (memory) => memory.compare(dump.image));
      await target.check();
    });
  }

  it.each([
    ['ERR_SLUICE_IO', { call: 'splice', errno: 'EIO' }],
    ['ERR_SLUICE_TRACKER_UNAVAILABLE', { call: 'remote:userfaultfd', errno: 'EPERM' }],
  ] satisfies [string, FaultSpec][])('%s leaves nothing', async (code, fault) => {
    await using dir = new TempDir();
    await using target = await startHazards(dir);
    const before = viewOf(target.pid);
    const error = await withFaults([fault], () => failedDumpOf(target.pid, tracked));
    expect(error).toMatchObject({ code, thawed: true });
    await assertUntouched(target.pid, before);
    expectNoTrace(target.pid);
    await target.check();
  });
});

describe('a held target', () => {
  it('goes on with resume(), and a second call is refused', async () => {
    await withHeld(async (target, held) => {
      await held.resume();
      await target.check();
      expect((await failureOf(held.kill())).code).toBe('ERR_SLUICE_OPTION');
      await held[Symbol.asyncDispose]();
      await target.check();
    });
  });

  it('stays stopped with leaveStopped() until SIGCONT comes', async () => {
    await withHeld(async (target, held) => {
      await held.leaveStopped();
      await waitFor('it is stopped', () => stateOf(target.pid) === 'T');
      expect(readStatus(target.pid).get('TracerPid')).toBe('0');
      expectNoTrace(target.pid);
      target.signal('SIGCONT');
      await target.check();
    });
  });

  it('ends with kill()', async () => {
    await withHeld(async (target, held) => {
      await held.kill();
      await target.ended();
      await waitFor('it was told', () => target.endings.length === 1);
      expect(target.endings).toEqual([{ code: null, signal: 'SIGKILL' }]);
    });
  });

  it('goes on at the end of the scope of its handle', async () => {
    await withHeld(async (target, held) => {
      await held[Symbol.asyncDispose]();
      await target.check();
    });
  });

  it('goes on when the dumper ends without a word', async () => {
    await using dir = new TempDir();
    await using target = await startHazards(dir);
    const core = new URL('../../packages/core/dist/index.js', import.meta.url).href;
    const script =
      `const { dumpProcess } = await import(${JSON.stringify(core)});` +
      `await dumpProcess(${target.pid}, { dir: ${JSON.stringify(dir.join('image'))}, after: 'stop', freezeTimeoutMs: 30000 });` +
      "console.log('held'); setInterval(() => {}, 1000);";
    const dumper = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(dumper, 'exit');
    await within('the dump', once(dumper.stdout, 'data'));
    expect(threadsOf(target.pid).map((tid) => stateOf(target.pid, tid))).toEqual(['t']);
    dumper.kill('SIGKILL');
    await ended;
    await target.check();
    expect(readStatus(target.pid).get('TracerPid')).toBe('0');
  });
});

interface HazardsInfo {
  pid: number;
  memory: string;
  zeros: string;
  file: string;
  shared: string;
  [field: string]: unknown;
}

interface WriterInfo {
  pid: number;
  sweep: string;
  sweepPages: number;
  sweepStep: number;
  counters: string;
  [field: string]: unknown;
}

type Held = NonNullable<DumpResult['held']>;

function startHazards(dir: TempDir, args: string[] = []): Promise<ChildTarget<HazardsInfo>> {
  return startTarget<HazardsInfo>('hazards', [dir.join('file'), ...args]);
}

function heldOf({ held }: DumpResult): Held {
  if (held === null) throw new Error('The target is not held');
  return held;
}

async function withHeld(
  work: (target: ChildTarget<HazardsInfo>, held: Held) => Promise<void>,
): Promise<void> {
  await using dir = new TempDir();
  await using target = await startHazards(dir);
  const options: DumpOptions = { dir: dir.join('image'), rounds: 2, after: 'stop' };
  const result = await within('a dump', dumpProcess(target.pid, options));
  await compareHeld(target.pid, options.dir);
  await work(target, heldOf(result));
}

async function compareHeld(pid: number, path: string): Promise<void> {
  await using image = await openImage(path);
  await whileHeld(pid, (memory) => memory.compare(image));
}

type Look = (found: { image: Image; info: HazardsInfo }) => Promise<void>;

/** Gives the target a command as the second of many rounds begins, with and without a tracker. */
async function hazard(command: string, look: Look = async () => {}): Promise<void> {
  for (const tracker of ['uffd-wp', 'none'] as const) {
    // A target that does not get the processor may need more rounds to be done before the last one.
    let rounds = tracker === 'none' ? MANY_FULL_ROUNDS : MANY_ROUNDS;
    while (!(await hazardIn({ tracker, rounds }, command, look))) {
      rounds *= 2;
      expect(rounds).toBeLessThan(MOST_ROUNDS);
    }
  }
}

/** False if the target was not done before the last round. */
async function hazardIn(options: Options, command: string, look: Look): Promise<boolean> {
  await using dir = new TempDir();
  await using target = await startHazards(dir);
  const { pid } = target;
  const path = dir.join('image');
  const dump = dumpProcess(pid, { ...options, dir: path, after: 'stop' });
  let answered = false;
  const done = atRound(path, dump, 2, async () => {
    expect(await target.command(command)).toEqual({ ok: true });
    answered = true;
  });
  const result = await within('a dump', dump);
  const inTime = answered;
  await using held = heldOf(result);
  await compareHeld(pid, path);
  if (inTime) {
    await using image = await openImage(path);
    await look({ image, info: target.info });
  }
  await held.resume();
  await done;
  await target.check();
  expectNoTrace(pid);
  // Once more, with nothing going on: what is there is as it was, down to the mappings.
  const before = viewOf(pid);
  await using again = await dumpOf(pid, { ...options, rounds: 2 });
  await assertUntouched(pid, before);
  await whileStopped(pid, (memory) => memory.compare(again.image));
  return inTime;
}

/** Does something as a round begins; resolves after that and the dump. */
async function atRound(
  path: string,
  dump: ReturnType<typeof dumpProcess>,
  round: number,
  work: () => unknown,
): Promise<void> {
  let done: unknown;
  await followRounds(path, dump, (number) => {
    if (number === round) done = work();
  });
  await done;
}

/** No mapping of it is watched any more. */
function expectNoTrace(pid: number): void {
  const watched = [...readVmFlags(pid)].filter(([, flags]) => flags.has('uw'));
  expect(watched).toEqual([]);
}

/** What the writer promises for any instant; see targets/writer.c. */
async function isOneInstant(image: Image, info: WriterInfo): Promise<boolean> {
  const words = async (address: bigint, pages: number) => {
    const copy = Buffer.from(await image.read(info.pid, address, pages * 4096));
    return new BigUint64Array(copy.buffer, copy.byteOffset, pages * 512);
  };
  const sweep = await words(BigInt(info.sweep), info.sweepPages);
  const turns = Array.from(
    { length: info.sweepPages },
    (_, step) => sweep[((step * info.sweepStep) % info.sweepPages) * 512] ?? 0n,
  );
  const [first = 0n] = turns;
  const drop = turns.findIndex((turn) => turn !== first);
  const inStep = drop < 0 || turns.slice(drop).every((turn) => turn === first - 1n);
  const counters = await words(BigInt(info.counters), 2);
  const distance = (counters[0] ?? 0n) - (counters[512] ?? 0n);
  return inStep && (distance === 0n || distance === 1n);
}
