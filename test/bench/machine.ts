/** What the machine has, and what of the benchmark fits. */
import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const GIBI = 1024 ** 3;
const MEBI = 1024 ** 2;

/** Beside the target: what raw writes are made from, the dumper, its pinned pages. */
const SPARE_MEMORY_BYTES = 1536 * MEBI;
/** Beside the pages of the target that it knows of: its libraries and stacks, the image's tables. */
const SPARE_DISK_BYTES = 256 * MEBI;

/** Of statfs(2). */
const FILE_SYSTEMS = new Map([
  [0xef53, 'ext4'],
  [0x58465342, 'xfs'],
  [0x9123683e, 'btrfs'],
  [0x2fc12fc1, 'zfs'],
  [0x01021994, 'tmpfs'],
  [0x794c7630, 'overlay'],
]);

/** For the head of the report. */
export interface Machine {
  kernel: string;
  node: string;
  cpu: string;
  cpus: number;
  memoryBytes: number;
  fileSystem: string;
  /** Average of the last minute before the benchmark. */
  load: number;
}

export function lookAtMachine(dir: string): Machine {
  return {
    kernel: release(),
    node: process.versions.node,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cpus: availableParallelism(),
    memoryBytes: meminfoBytes('MemTotal'),
    fileSystem: fileSystemOf(dir),
    load: loadavg()[0] ?? 0,
  };
}

function fileSystemOf(dir: string): string {
  const { type } = statfsSync(dir);
  return FILE_SYSTEMS.get(type) ?? `file system 0x${type.toString(16)}`;
}

/**
 * Why a target of this size cannot be dumped here, or `undefined` if it can.
 *
 * @param imageMib The image of it.
 */
export function shortageFor(mib: number, imageMib: number, dir: string): string | undefined {
  const imageInMemory = fileSystemOf(dir) === 'tmpfs' ? imageMib : 0;
  const memoryNeeded = (mib + imageInMemory) * MEBI + SPARE_MEMORY_BYTES;
  const memory = availableMemoryBytes();
  if (memory < memoryNeeded) {
    return `needs ${gib(memoryNeeded)} of memory, ${gib(memory)} is available`;
  }
  const { bavail, bsize } = statfsSync(dir);
  const diskNeeded = imageMib * MEBI + SPARE_DISK_BYTES;
  const disk = bavail * bsize;
  if (disk < diskNeeded) return `needs ${gib(diskNeeded)} in ${dir}, ${gib(disk)} is free`;
  return undefined;
}

function availableMemoryBytes(): number {
  const limit = process.constrainedMemory();
  const available = meminfoBytes('MemAvailable');
  // Without a limit it is 0, or larger than any machine.
  return limit > 0 ? Math.min(limit, available) : available;
}

function meminfoBytes(key: string): number {
  const found = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(
    readFileSync('/proc/meminfo', 'utf8'),
  );
  if (found === null) throw new Error(`/proc/meminfo has no ${key}`);
  return Number(found[1]) * 1024;
}

function gib(bytes: number): string {
  return `${(bytes / GIBI).toFixed(1)} GiB`;
}

/** Path of a program of test/targets. */
export function programOf(name: 'bench_target' | 'bench_rawwrite'): string {
  const path = fileURLToPath(new URL(`../../targets/build/${name}`, import.meta.url));
  if (!existsSync(path)) throw new Error(`${name} is not built: make -C test/targets`);
  return path;
}

/** Whether a command is installed. */
export function isInstalled(command: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((dir) => {
    try {
      accessSync(join(dir, command), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
