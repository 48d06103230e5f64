/**
 * What the kernel says about a process, read by code that shares nothing with the product: the tests
 * compare the two.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** One line of /proc/PID/maps. */
export interface Mapping {
  start: bigint;
  end: bigint;
  /** Like `rw-`. */
  protection: string;
  shared: boolean;
  offset: bigint;
  device: string;
  inode: bigint;
  path: string;
}

const MAPS_LINE =
  /^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-])([sp]) ([0-9a-f]+) (\S+) (\d+)(?: +(.*))?$/;

export function readMappings(pid: number): Mapping[] {
  const text = readFileSync(`/proc/${pid}/maps`, 'latin1');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const parts = MAPS_LINE.exec(line);
      if (parts === null) throw new Error(`Unexpected line in maps: ${line}`);
      const [, start, end, protection = '', share, offset, device = '', inode = '', path = ''] =
        parts;
      return {
        start: BigInt(`0x${start}`),
        end: BigInt(`0x${end}`),
        protection,
        shared: share === 's',
        offset: BigInt(`0x${offset}`),
        device,
        inode: BigInt(inode),
        path: Buffer.from(path, 'latin1').toString(),
      };
    });
}

/** VmFlags of /proc/PID/smaps by start address. */
export function readVmFlags(pid: number): Map<bigint, Set<string>> {
  const flags = new Map<bigint, Set<string>>();
  let start = 0n;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    const head = /^([0-9a-f]+)-[0-9a-f]+ /.exec(line);
    if (head !== null) start = BigInt(`0x${head[1]}`);
    if (line.startsWith('VmFlags:')) flags.set(start, new Set(line.slice(8).trim().split(' ')));
  }
  return flags;
}

/** Fields of /proc/PID/status or of one of its threads. */
export function readStatus(pid: number, tid?: number): Map<string, string> {
  const path = tid === undefined ? `/proc/${pid}/status` : `/proc/${pid}/task/${tid}/status`;
  const fields = new Map<string, string>();
  for (const line of readFileSync(path, 'latin1').split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return fields;
}

/** Fields of stat from the third (the state) on. */
export function readStat(path: string): string[] {
  const text = readFileSync(path, 'latin1');
  return text
    .slice(text.lastIndexOf(')') + 2)
    .trim()
    .split(' ');
}

/** State letter of proc_pid_stat(5); undefined if there is no such process. */
export function stateOf(pid: number, tid = pid): string | undefined {
  return orGone(() => readStat(`/proc/${pid}/task/${tid}/stat`)[0]);
}

/** Clock ticks after boot; undefined if there is no such process. */
export function startTimeOf(pid: number): string | undefined {
  return orGone(() => readStat(`/proc/${pid}/stat`)[19]);
}

export function threadsOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .map(Number)
    .sort((a, b) => a - b);
}

/** Whether SIGSTOP has stopped all threads: those that were woken meanwhile stop again by themselves. */
export function isStopped(pid: number): boolean {
  return threadsOf(pid).every((tid) => stateOf(pid, tid) === 'T');
}

/** Children of all threads. */
export function childrenOf(pid: number): number[] {
  return threadsOf(pid)
    .flatMap(
      (tid) => orGone(() => readFileSync(`/proc/${pid}/task/${tid}/children`, 'latin1')) ?? '',
    )
    .flatMap((text) => text.split(' '))
    .filter((text) => text.trim() !== '')
    .map(Number)
    .sort((a, b) => a - b);
}

/** Open descriptors, like `3 -> /dev/null`. */
export function descriptorsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .sort((a, b) => Number(a) - Number(b))
    .flatMap((fd) => orGone(() => `${fd} -> ${readlinkSync(`/proc/${pid}/fd/${fd}`)}`) ?? []);
}

/** Undefined instead of an error if the process or thread is not there any more. */
export function orGone<Value>(read: () => Value): Value | undefined {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}
