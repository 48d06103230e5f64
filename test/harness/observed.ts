/** All that others can see of a process that stands still, but for what cannot stay the same. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { childrenOf, orGone, readStat, readStatus, threadsOf } from './procfs.js';
import { type View, viewOf } from './untouched.js';

/** Lines of `status`, and why they cannot be compared. */
const STATUS_EXCEPTIONS: Readonly<Record<string, string>> = {
  State: 'running or asleep; that it is not stopped or traced is compared elsewhere',
  VmPeak: 'a high-water mark: scratch memory was mapped for a while',
  VmHWM: 'a high-water mark: frames on a stack, pages of files',
  VmRSS: 'reading maps pages of files and of shared memory',
  RssAnon: 'the frame that a stopped thread gets may lie on a page of stack of its own',
  RssFile: 'reading maps pages of files',
  RssShmem: 'reading maps pages of shared memory',
  VmPTE: 'page tables for those pages',
  voluntary_ctxt_switches: 'each stop is one',
  nonvoluntary_ctxt_switches: 'the machine is busy',
};

/** Lines of `smaps` that are compared. */
const SMAPS_LINES = [
  'Size',
  'KernelPageSize',
  'Anonymous',
  'KSM',
  'LazyFree',
  'AnonHugePages',
  'ShmemPmdMapped',
  'FilePmdMapped',
  'Private_Hugetlb',
  'Shared_Hugetlb',
  'Swap',
  'Locked',
  'THPeligible',
  'VmFlags',
];
/** The others, and why not. */
export const SMAPS_EXCEPTIONS: Readonly<Record<string, string>> = {
  MMUPageSize: 'as KernelPageSize',
  Rss: 'reading maps pages of files and of shared memory',
  Pss: 'the same, and other processes come and go',
  Pss_Dirty: 'the same',
  SwapPss: 'the same',
  Shared_Clean: 'the same',
  Shared_Dirty: 'the same',
  Private_Clean: 'the same',
  Private_Dirty: 'the same',
  Referenced: 'that pages were read is what clear_refs shows',
  ProtectionKey: 'part of the mapping, where there is any',
};

/** Not arch_status, which says how long ago a processor ran some instruction, nor mounts, which others make. */
const FILES = [
  ...['autogroup', 'auxv', 'cgroup', 'cmdline', 'comm', 'coredump_filter', 'cpuset'],
  ...['environ', 'gid_map', 'limits', 'loginuid', 'oom_score_adj', 'personality'],
  ...['sessionid', 'setgroups', 'timens_offsets', 'timers', 'timerslack_ns', 'uid_map'],
];
const LINKS = ['cwd', 'exe', 'root'];
const SCHED_LINES = /^(policy|prio|se\.slice|se\.load\.weight|dl\.\w+)\s*:\s*(\S+)$/gm;
/** How much time is left, and of which mount it is seen. */
const FDINFO_EXCEPTIONS = /^it_value:.*\n/m;

/**
 * The number of a call with a timeout, even an endless one: once a stop interrupted it, the kernel goes
 * on with it as restart_syscall(2). So it does after SIGSTOP and SIGCONT.
 */
const RESTARTED = /^(7|35|202|219|230) /;

export interface FullView extends Omit<View, 'anonymousKib'> {
  whole: Record<string, string>;
  smaps: Record<string, Record<string, string>>;
  fdinfo: Record<string, string | undefined>;
  files: Record<string, string | undefined>;
  namespaces: Record<string, string>;
  eachThread: unknown[];
}

export function fullViewOf(pid: number): FullView {
  const { anonymousKib: _, ...view } = viewOf(pid);
  const read = (name: string) => orGone(() => readFileSync(`/proc/${pid}/${name}`, 'latin1'));
  const link = (name: string) => readlinkSync(`/proc/${pid}/${name}`);
  const namesIn = (name: string) => readdirSync(`/proc/${pid}/${name}`);
  const perName = <Value>(names: readonly string[], value: (name: string) => Value) =>
    Object.fromEntries(names.map((name) => [name, value(name)]));
  return {
    ...view,
    whole: statusOf(pid),
    smaps: smapsOf(pid),
    fdinfo: perName(namesIn('fdinfo'), (fd) =>
      read(`fdinfo/${fd}`)?.replace(FDINFO_EXCEPTIONS, ''),
    ),
    files: { ...view.files, ...perName(FILES, read), ...perName(LINKS, link) },
    namespaces: perName(namesIn('ns'), (name) => link(`ns/${name}`)),
    eachThread: threadsOf(pid).map((tid) => {
      const [flags, nice, rtPriority, policy] = [6, 16, 37, 38].map(
        (index) => readStat(`/proc/${pid}/task/${tid}/stat`)[index],
      );
      return {
        ...{ tid, flags, nice, rtPriority, policy },
        status: statusOf(pid, tid),
        // Where it waits, and in which call with which arguments.
        wchan: read(`task/${tid}/wchan`),
        syscall: read(`task/${tid}/syscall`)?.replace(RESTARTED, ''),
        sched: [...(read(`task/${tid}/sched`) ?? '').matchAll(SCHED_LINES)].map(([line]) => line),
        children: read(`task/${tid}/children`),
      };
    }),
  };
}

function statusOf(pid: number, tid?: number): Record<string, string> {
  const lines = [...readStatus(pid, tid)].filter(([name]) => !(name in STATUS_EXCEPTIONS));
  return Object.fromEntries(lines);
}

/** By the range of addresses. Stacks of threads may have a page more. */
function smapsOf(pid: number): FullView['smaps'] {
  const stackPointers = threadsOf(pid).map((tid) => {
    const [, pointer = '0'] =
      / (0x[0-9a-f]+) 0x[0-9a-f]+\n$/.exec(
        orGone(() => readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'latin1')) ?? '',
      ) ?? [];
    return BigInt(pointer);
  });
  const mappings: FullView['smaps'] = {};
  let lines: Record<string, string> = {};
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    const [head, start, end] = /^([0-9a-f]+)-([0-9a-f]+) .*$/.exec(line) ?? [];
    if (head !== undefined) {
      lines = {};
      mappings[head] = lines;
      const isStack = stackPointers.some(
        (pointer) => BigInt(`0x${start}`) <= pointer && pointer < BigInt(`0x${end}`),
      );
      if (isStack) lines.stack = 'of a thread';
      continue;
    }
    const [, name = '', value = ''] = /^(\w+): +(.*?) *$/.exec(line) ?? [];
    if (name === 'Anonymous' && lines.stack !== undefined) continue;
    if (SMAPS_LINES.includes(name)) lines[name] = value;
    else if (name !== '' && !(name in SMAPS_EXCEPTIONS)) lines[name] = `${value} (unknown line)`;
  }
  return mappings;
}

/** Nanoseconds of CPU time that all threads of a process and its children have had. */
export function cpuNsOf(pid: number): Record<number, string | undefined> {
  const tasks = [pid, ...childrenOf(pid)].flatMap((each) =>
    threadsOf(each).map((tid) => [each, tid] as const),
  );
  return Object.fromEntries(
    tasks.map(([each, tid]) => [
      tid,
      orGone(() => readFileSync(`/proc/${each}/task/${tid}/schedstat`, 'latin1').split(' ')[0]),
    ]),
  );
}
