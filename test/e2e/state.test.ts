/**
 * A dump holds what the kernel keeps of each thread and of the process, as the process itself and
 * /proc tell it.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ManifestProcess, ManifestThread } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { readStat, readStatus } from '../harness/procfs.js';
import { type Ready, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';

leakCheck();

interface SaidThread {
  tid: number;
  mask: string;
  robustList: string;
  rseq: string;
  mxcsr: number;
  /** Hexadecimal digits: st0, and ymm0 or xmm0. */
  x87: string;
  vector: string;
}

interface Said extends Ready {
  break: string;
  descriptor: number;
  code: string;
  arguments: string;
  parent: number;
  group: number;
  session: number;
  nice: number;
  actions: { signal: number; handler: string; flags: string; restorer: string; mask: string }[];
  main: SaidThread;
  threads: SaidThread[];
}

/** In the area that FXSAVE made, and where the upper halves of the vector registers follow. */
const MXCSR = 24;
const ST0 = 32;
const XMM0 = 160;
const COMPONENTS = 512;
const YMM0_UPPER = 576;
const UNLIMITED = 2n ** 64n - 1n;
const SLUICE = fileURLToPath(new URL('../../packages/cli/bin/sluice.js', import.meta.url));

const signals = (...numbers: number[]) =>
  numbers.reduce((set, number) => set | (1n << BigInt(number - 1)), 0n);
const SIGHUP = 1;
const SIGUSR1 = 10;
const SIGALRM = 14;

function processOf(image: { processes: readonly ManifestProcess[] }): ManifestProcess {
  const [process] = image.processes;
  if (process === undefined) throw new Error('The image holds no process');
  return process;
}

function expectRegisters({ extendedRegisters }: ManifestThread, said: SaidThread): void {
  const bytes = Buffer.from(extendedRegisters);
  expect(bytes.readUInt32LE(MXCSR)).toBe(said.mxcsr);
  expect(bytes.subarray(ST0, ST0 + 10).toString('hex')).toBe(said.x87);
  const vector = Buffer.from(said.vector, 'hex');
  expect(bytes.subarray(XMM0, XMM0 + 16)).toEqual(vector.subarray(0, 16));
  if (vector.length === 32) {
    expect(bytes.readBigUInt64LE(COMPONENTS) & 4n).toBe(4n);
    expect(bytes.subarray(YMM0_UPPER, YMM0_UPPER + 16)).toEqual(vector.subarray(16));
  }
}

function expectThreads({ threads }: ManifestProcess, pid: number, said: Said): void {
  expect(threads.map(({ tid }) => tid)).toEqual([pid, ...said.threads.map(({ tid }) => tid)]);
  for (const [i, own] of [said.main, ...said.threads].entries()) {
    const thread = threads[i] as ManifestThread;
    expect(thread.name).toBe(i === 0 ? 'state' : `thread \\${i - 1}`);
    expect(thread.namespaceTid).toBe(own.tid);
    expect(thread.registers.length).toBe(27 * 8);
    expect(thread.signalMask).toBe(BigInt(own.mask));
    expect(thread.pendingSignals).toBe(i === threads.length - 1 ? signals(SIGUSR1) : 0n);
    expect(thread.robustList).toBe(BigInt(own.robustList));
    expect(thread.rseq?.address ?? 0n).toBe(BigInt(own.rseq));
    if (thread.rseq !== null) expect(thread.rseq.signature).toBe(0x53053053);
    if (i > 0) expectRegisters(thread, own);
  }
}

function expectState(
  { state, threads }: ManifestProcess,
  pid: number,
  said: Said,
  file: string,
): void {
  const status = readStatus(pid);
  const stat = readStat(`/proc/${pid}/stat`);
  const field = (number: number) => BigInt(stat[number - 3] ?? '');
  const ids = (name: string) => (status.get(name) ?? '').split(/\s+/).filter(Boolean).map(Number);
  const set = (name: string) => BigInt(`0x${status.get(name)}`);
  expect(state).toMatchObject({
    parentPid: said.parent,
    processGroup: said.group,
    sessionLeader: said.session,
    nice: said.nice,
    flags: field(9),
    userIds: ids('Uid'),
    groupIds: ids('Gid'),
    supplementaryGroups: ids('Groups'),
    capabilities: {
      inheritable: set('CapInh'),
      permitted: set('CapPrm'),
      effective: set('CapEff'),
      bounding: set('CapBnd'),
      ambient: set('CapAmb'),
    },
    noNewPrivileges: true,
    seccompMode: Number(status.get('Seccomp')),
    pendingSignals: signals(SIGUSR1),
    ignoredSignals: set('SigIgn'),
    caughtSignals: set('SigCgt'),
    umask: 0o27,
    addresses: {
      startCode: field(26),
      endCode: field(27),
      startStack: field(28),
      startData: field(45),
      endData: field(46),
      startBreak: field(47),
      argumentsStart: BigInt(said.arguments),
      argumentsEnd: field(49),
      environmentStart: field(50),
      environmentEnd: field(51),
    },
    workingDirectory: readlinkSync(`/proc/${pid}/cwd`),
    root: readlinkSync(`/proc/${pid}/root`),
  });
  if (state === null) return;
  expect(state.ignoredSignals & signals(SIGHUP)).toBe(signals(SIGHUP));
  expect(Buffer.from(state.auxiliaryVector)).toEqual(readFileSync(`/proc/${pid}/auxv`));
  const { addresses } = state;
  const code = BigInt(said.code);
  expect(addresses.startCode <= code && code < addresses.endCode).toBe(true);

  expect(state.limits).toHaveLength(16);
  expect(state.limits).toContainEqual({ name: 'NOFILE', soft: 100n, hard: 200n });
  expect(state.limits).toContainEqual({ name: 'CORE', soft: 0n, hard: 0n });
  const cpu = /^Max cpu time\s+(\S+)\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'));
  const limit = (text = '') => (text === 'unlimited' ? UNLIMITED : BigInt(text));
  expect(state.limits[0]).toEqual({ name: 'CPU', soft: limit(cpu?.[1]), hard: limit(cpu?.[2]) });

  const ends = state.extendedLayout.map(({ bytes, offset }) => offset + bytes);
  expect(ends).not.toEqual([]);
  expect(Math.max(...ends)).toBeLessThanOrEqual(threads[0]?.extendedRegisters.length ?? 0);

  const { descriptors } = state;
  expect(descriptors.map(({ descriptor }) => String(descriptor))).toEqual(
    readdirSync(`/proc/${pid}/fd`).sort((a, b) => Number(a) - Number(b)),
  );
  // O_RDWR, O_APPEND, O_CLOEXEC, and O_LARGEFILE, which the kernel adds.
  const { descriptor } = said;
  expect(descriptors).toContainEqual({ descriptor, path: file, position: 12n, flags: 0o2102002 });
}

describe('what the kernel keeps of a process', () => {
  it.each([
    ['in rounds', { capture: 'vmsplice', rounds: 1 }],
    ['under one freeze', { capture: 'vmsplice', rounds: 0 }],
    ['from outside', { capture: 'read', rounds: 0 }],
  ] as const)('is in a dump %s', async (way, options) => {
    await using dir = new TempDir();
    const file = dir.join('open');
    await using target = await startTarget<Said>('state', [file]);
    const { pid, info } = target;
    await using dump = await dumpOf(pid, options);
    const process = processOf(dump.image);
    expectThreads(process, pid, info);
    expectState(process, pid, info, file);
    if (way === 'from outside') {
      expect(process.state).toMatchObject({ signalActions: null, programBreak: 0n });
    } else {
      const numbers = ({ signal, ...rest }: Said['actions'][number]) => ({
        signal,
        ...Object.fromEntries(Object.entries(rest).map(([name, text]) => [name, BigInt(text)])),
      });
      expect(process.state?.signalActions).toEqual(info.actions.map(numbers));
      expect(process.state?.programBreak).toBe(BigInt(info.break));
    }
    for (const image of dump.image.chain.slice(1)) {
      expect(processOf(image.manifest)).toMatchObject({ threads: [], state: null });
    }
    await target.check();
  });

  it('is shown by inspect', async () => {
    await using dir = new TempDir();
    await using target = await startTarget<Said>('state', [dir.join('open')]);
    await using dump = await dumpOf(target.pid, { rounds: 0 });
    const inspect = (...more: string[]) =>
      spawnSync(process.execPath, [SLUICE, 'inspect', dump.image.dir, ...more], {
        encoding: 'utf8',
      }).stdout;
    expect(inspect()).toMatch(/threads +5\n/);
    expect(inspect()).toMatch(/user +\d+, group \d+\n/);
    const report = JSON.parse(inspect('--json'));
    const [{ threads, state }] = report.processes;
    const last = processOf(dump.image).threads.at(-1);
    expect(threads.at(-1)).toMatchObject({
      namespace_tid: last?.tid,
      extended_registers: Buffer.from(last?.extendedRegisters ?? []).toString('hex'),
      pending_signals: '0x200',
    });
    expect(state).toMatchObject({ no_new_privileges: true, umask: 0o27 });
    expect(last?.signalMask).toBe(signals(SIGUSR1, 34 + 3));
    expect(threads[0].signal_mask).toBe(`0x${signals(SIGUSR1, SIGALRM).toString(16)}`);
  });
});
