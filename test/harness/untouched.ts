/** What a dump must leave as it was. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'vitest';
import {
  childrenOf,
  descriptorsOf,
  isStopped,
  orGone,
  readMappings,
  readStat,
  readStatus,
  readVmFlags,
  stateOf,
  threadsOf,
} from './procfs.js';
import { waitFor } from './wait.js';

const STATUS_FIELDS = [
  'Name',
  'Umask',
  'PPid',
  'TracerPid',
  'Uid',
  'Gid',
  'Groups',
  'Threads',
  'SigPnd',
  'ShdPnd',
  'SigBlk',
  'SigIgn',
  'SigCgt',
  'CapInh',
  'CapPrm',
  'CapEff',
  'CapBnd',
  'CapAmb',
  'NoNewPrivs',
  'Seccomp',
  'Seccomp_filters',
  'Cpus_allowed_list',
  'VmLck',
  'VmPin',
];
const THREAD_FIELDS = ['Name', 'TracerPid', 'SigPnd', 'SigBlk', 'Seccomp', 'Cpus_allowed_list'];
const FILES = ['limits', 'cgroup', 'oom_score_adj', 'coredump_filter', 'personality'];
/** Room for stack that was touched. */
const ANONYMOUS_SLACK_KIB = 128;

/** A process as seen from outside. */
export interface View {
  state: string;
  status: Record<string, string | undefined>;
  maps: unknown;
  descriptors: string[];
  children: unknown;
  threads: unknown;
  files: Record<string, string | undefined>;
  /** Memory of its own; shared pages and those of files may get mapped by being read. */
  anonymousKib: number;
}

export interface UntouchedOptions {
  /** It works on meanwhile: its threads, mappings and descriptors come and go. */
  busy?: boolean;
}

export function viewOf(pid: number): View {
  const status = readStatus(pid);
  return {
    state: kindOfState(status.get('State')),
    status: Object.fromEntries(STATUS_FIELDS.map((name) => [name, status.get(name)])),
    maps: readMappings(pid),
    descriptors: descriptorsOf(pid),
    children: childrenOf(pid).map((child) => ({
      pid: child,
      state: orGone(() => kindOfState(readStat(`/proc/${child}/stat`)[0])),
    })),
    threads: threadsOf(pid).map((tid) =>
      orGone(() => {
        const thread = readStatus(pid, tid);
        const [state, nice, policy] = [0, 16, 38].map(
          (index) => readStat(`/proc/${pid}/task/${tid}/stat`)[index],
        );
        const fields = THREAD_FIELDS.map((name) => [name, thread.get(name)]);
        return { tid, state: kindOfState(state), nice, policy, ...Object.fromEntries(fields) };
      }),
    ),
    files: Object.fromEntries(
      FILES.map((name) => [name, orGone(() => readFileSync(`/proc/${pid}/${name}`, 'latin1'))]),
    ),
    anonymousKib: Number.parseInt(status.get('RssAnon') ?? '0', 10),
  };
}

/** Fails if something about a process is not as it was in `before`. */
export async function assertUntouched(
  pid: number,
  before: View,
  { busy = false }: UntouchedOptions = {},
): Promise<void> {
  if (before.state === 'stopped') {
    await waitFor(`process ${pid} is stopped`, () => isStopped(pid));
  }
  let after = viewOf(pid);
  if (busy) {
    // What a busy process does itself passes; what a dump leaves behind stays.
    for (let tries = 0; tries < 500 && !isDeepStrictEqual(steady(after), steady(before)); tries++) {
      await sleep(10);
      after = viewOf(pid);
    }
    expect(steady(after)).toEqual(steady(before));
    return;
  }
  const { anonymousKib: kibBefore, ...restBefore } = before;
  const { anonymousKib: kibAfter, ...restAfter } = after;
  expect(restAfter).toEqual(restBefore);
  expect(kibAfter).toBeLessThanOrEqual(kibBefore + ANONYMOUS_SLACK_KIB);
}

/** Fails if a process that works shows a trace of a dump that is over; what it does itself may differ. */
export async function assertClean(pid: number): Promise<void> {
  // It may have children that end, and look after them in its own time.
  const zombies = () => childrenOf(pid).filter((child) => stateOf(child) === 'Z');
  await waitFor('no child is a zombie', () => zombies().length === 0);
  const flags = readVmFlags(pid);
  expect({
    traced: threadsOf(pid).filter((tid) => {
      const status = orGone(() => readStatus(pid, tid));
      return status !== undefined && status.get('TracerPid') !== '0';
    }),
    // A dumper maps its memory in a way that nobody else has a use for.
    mapped: readMappings(pid).filter(({ protection }) => protection === '-w-'),
    watched: [...flags].filter(([, names]) => names.has('uw') || names.has('um')),
    descriptors: descriptorsOf(pid).filter((text) => text.includes('userfaultfd')),
  }).toEqual({ traced: [], mapped: [], watched: [], descriptors: [] });
}

/** What a dump must leave alone even in a process that changes by itself. */
function steady({ state, status, children, files }: View): unknown {
  return { state, status, children, files };
}

/** Running, sleeping and so on are all the same: it is not held by anyone. */
function kindOfState(state: string | undefined): string {
  switch (state?.[0]) {
    case 'R':
    case 'S':
    case 'D':
    case 'I':
      return 'runs';
    case 'T':
      return 'stopped';
    case 't':
      return 'traced';
    default:
      return state ?? 'gone';
  }
}
