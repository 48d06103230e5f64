/** What this kernel, this caller and a target allow, and what that means for a dump. */
import { tmpdir } from 'node:os';
import { addon, type KernelFacts, type KernelProbe, type TargetFacts } from '@sluice/native';
import { ERRORS, fromNative } from './errors.js';
import { codeOfRefusal } from './session/identify.js';
import { checkPid } from './session/options.js';

/** One thing that was looked at. */
export interface Check {
  name: string;
  ok: boolean;
  /** What was found, in the words of the kernel. */
  detail: string;
  /** What follows for a dump. */
  means: string;
}

export interface SystemReport {
  /** Release of the kernel, like `6.18.0`. */
  release: string;
  machine: string;
  pageSizeBytes: number;
  /** Whether dumps of this caller's own kind of process can work at all. */
  ok: boolean;
  checks: Check[];
}

export interface TargetReport {
  pid: number;
  name: string;
  /** Letter of proc_pid_stat(5), like `S`; `` if there is no such process. */
  state: string;
  threads: number;
  /** Whether a dump may be tried. */
  ok: boolean;
  checks: Check[];
}

interface Meaning {
  yes: string;
  no: string;
}

const PROBES: Record<KernelProbe, Meaning> = {
  ptraceSeize: {
    yes: 'targets can be frozen and thawed',
    no: 'no process can be dumped here',
  },
  processVmReadv: {
    yes: 'the read backend works at full speed',
    no: 'the read backend has to use /proc/PID/mem, which is slower',
  },
  vmsplice: {
    yes: 'pages can go to the shards without a copy',
    no: 'every page is copied once by the dumper (capture "read")',
  },
  pidfdGetfd: {
    yes: 'pipes can be taken over from the helper, which vmsplice needs',
    no: 'capture "read" is used instead of vmsplice',
  },
  suspendSeccomp: {
    yes: 'targets with a seccomp filter can be captured with vmsplice as well',
    no: 'targets with a seccomp filter are captured with "read"',
  },
  pipeSize: {
    yes: 'pipes can hold as much as the budget gives them',
    no: 'pipes stay small, so throughput is lower',
  },
  pagemapScan: {
    yes: 'existing pages are found in one step per mapping',
    no: 'existing pages are found through /proc/PID/pagemap, which takes longer under freeze',
  },
  pagemap: {
    yes: 'existing pages can be found where PAGEMAP_SCAN cannot be used',
    no: 'there is no way around PAGEMAP_SCAN',
  },
  mapFiles: {
    yes: 'files of mappings can be opened even if they were deleted',
    no: 'deleted files of mappings are read through the memory of the target',
  },
  kcmp: {
    yes: 'a task that shares the memory of Sluice itself is recognised and refused',
    no: 'a task that shares the memory of Sluice itself is not recognised: do not dump one',
  },
  oDirect: {
    yes: 'shards are written past the page cache',
    no: 'shards are written through the page cache, which is slower',
  },
  uffdWpAsync: {
    yes: 'written pages can be tracked while a target runs',
    no: 'written pages cannot be tracked with userfaultfd',
  },
  softDirty: {
    yes: 'written pages can be tracked with soft-dirty bits',
    no: 'written pages cannot be tracked with soft-dirty bits',
  },
};

/** Without these nothing works; all others have something to fall back to. */
const NEEDED: readonly KernelProbe[] = ['ptraceSeize'];

const STATES: Record<string, string> = {
  R: 'running',
  S: 'sleeping',
  D: 'in uninterruptible sleep',
  T: 'stopped by a signal',
  t: 'stopped by a tracer',
  Z: 'ended',
  X: 'ended',
  I: 'idle',
};

/**
 * Probes the kernel and what the caller may do. Takes some milliseconds; touches no process.
 *
 * @param dir Where images would go, for what its file system allows.
 * @throws `ERR_SLUICE_NATIVE_LOAD`
 */
export function inspectSystem(dir: string = tmpdir()): SystemReport {
  let facts: KernelFacts;
  try {
    facts = addon.kernelFacts(dir);
  } catch (error) {
    throw fromNative(error);
  }
  const { release, machine, pageSizeBytes, probes } = facts;
  const names = Object.keys(PROBES) as KernelProbe[];
  const checks = names.map((name): Check => {
    const { ok, detail } = probes[name];
    return { name, ok, detail, means: ok ? PROBES[name].yes : PROBES[name].no };
  });
  const ok = NEEDED.every((name) => probes[name].ok);
  return { release, machine, pageSizeBytes, ok, checks: [...checks, tracking(probes)] };
}

/** What `tracker: 'auto'` takes here, and why nothing better. */
function tracking({ uffdWpAsync, pagemapScan, softDirty }: KernelFacts['probes']): Check {
  const missing = [uffdWpAsync, pagemapScan].filter(({ ok }) => !ok).map(({ detail }) => detail);
  const noUffd = missing.length === 0 ? '' : `; not uffd-wp: ${missing.join('; ')}`;
  const check = (found: string, means: string): Check => ({
    name: 'tracker',
    ok: found !== 'none',
    detail: `${found}${noUffd}`,
    means,
  });
  if (noUffd === '')
    return check('uffd-wp', 'rounds stop nothing; only the last pages need a freeze');
  if (softDirty.ok) return check('soft-dirty', 'each round needs a freeze to look at all pages');
  return check('none', 'there are no rounds by default: all pages are taken under one freeze');
}

/**
 * Looks whether a process can be dumped, and how. The process is not touched; that it does not exist
 * is an answer, not an error.
 *
 * @throws `ERR_SLUICE_OPTION`, `ERR_SLUICE_NATIVE_LOAD`
 */
export function inspectTarget(pid: number): TargetReport {
  checkPid(pid);
  let facts: TargetFacts;
  try {
    facts = addon.targetFacts(pid);
  } catch (error) {
    throw fromNative(error, { pid });
  }
  const { name, state, threads, refusal } = facts;
  const ok = refusal === '';
  // Of a process that cannot be dumped only the reason is of interest.
  const checks = ok ? [dumpable(facts), ...circumstances(facts)] : [dumpable(facts)];
  return { pid, name, state, threads, ok, checks };
}

function dumpable({ refusal, refusalDetail }: TargetFacts): Check {
  if (refusal === '') {
    return { name: 'dumpable', ok: true, detail: '', means: 'this process can be dumped' };
  }
  const code = codeOfRefusal(refusal);
  const detail = `${code}: ${refusalDetail || ERRORS[code].summary}`;
  return { name: 'dumpable', ok: false, detail, means: ERRORS[code].advice };
}

function circumstances({ state, threads, seccompMode }: TargetFacts): Check[] {
  const blocked = state === 'D';
  const filtered = seccompMode !== 0;
  return [
    {
      name: 'state',
      ok: !blocked,
      detail: STATES[state] ?? state,
      means: blocked
        ? 'freezing has to wait until its system call ends and may run into the time limit'
        : 'it can be frozen at once',
    },
    {
      name: 'threads',
      ok: true,
      detail: String(threads),
      means: 'all of them are stopped during the freeze',
    },
    {
      name: 'seccomp',
      ok: true,
      detail: filtered ? `mode ${seccompMode}` : 'none',
      means: filtered
        ? 'vmsplice needs the right to suspend the filter, and one that ends nobody for its calls; else capture "read" is used'
        : 'nothing stands in the way of a helper',
    },
  ];
}
