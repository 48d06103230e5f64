/** A process that stands still, and its memory as the kernel shows it, without any help of Sluice. */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export const PAGE_BYTES = 4096;
const PAGEMAP_ENTRY_BYTES = 8;
const PAGEMAP_PRESENT = 1n << 63n;
const PAGEMAP_SWAPPED = 1n << 62n;
const STOP_DEADLINE_MS = 10_000;

export class StoppedProcess implements Disposable {
  readonly pid: number;
  readonly #memory: number;
  readonly #pagemap: number;

  private constructor(pid: number) {
    this.pid = pid;
    this.#memory = openSync(`/proc/${pid}/mem`, 'r');
    this.#pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
  }

  /** Stops a process until the end of the scope. */
  static async stop(pid: number): Promise<StoppedProcess> {
    process.kill(pid, 'SIGSTOP');
    try {
      const deadlineMs = performance.now() + STOP_DEADLINE_MS;
      while (!allStopped(pid)) {
        if (performance.now() > deadlineMs) throw new Error(`Process ${pid} does not stop`);
        await sleep(1);
      }
      return new StoppedProcess(pid);
    } catch (error) {
      process.kill(pid, 'SIGCONT');
      throw error;
    }
  }

  /** Mappings as `START-END rwxp` in hex, as /proc/PID/maps has them. */
  mappings(): string[] {
    const lines = readFileSync(`/proc/${this.pid}/maps`, 'utf8').trimEnd().split('\n');
    return lines.map((line) => line.split(' ', 2).join(' '));
  }

  /** Undefined if the kernel cannot read there, for example beyond the end of a mapped file. */
  read(address: bigint, bytes: number): Buffer | undefined {
    const target = Buffer.alloc(bytes);
    try {
      let done = 0;
      while (done < bytes) {
        const position = address + BigInt(done);
        const read = readSync(this.#memory, target, done, bytes - done, position);
        if (read === 0) return undefined;
        done += read;
      }
      return target;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EIO' || code === 'EFAULT') return undefined;
      throw error;
    }
  }

  /** For each page from `address` on, whether it exists, in memory or in swap. */
  existing(address: bigint, pages: number): boolean[] {
    const entries = Buffer.alloc(pages * PAGEMAP_ENTRY_BYTES);
    const position = (address / BigInt(PAGE_BYTES)) * BigInt(PAGEMAP_ENTRY_BYTES);
    const read = readSync(this.#pagemap, entries, 0, entries.length, position);
    if (read !== entries.length) throw new Error(`pagemap ends at 0x${address.toString(16)}`);
    return Array.from({ length: pages }, (_, page) => {
      const entry = entries.readBigUInt64LE(page * PAGEMAP_ENTRY_BYTES);
      return (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) !== 0n;
    });
  }

  [Symbol.dispose](): void {
    closeSync(this.#memory);
    closeSync(this.#pagemap);
    process.kill(this.pid, 'SIGCONT');
  }
}

function allStopped(pid: number): boolean {
  return readdirSync(`/proc/${pid}/task`).every((tid) => {
    const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1');
    // The state comes after the name, which may hold anything.
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
  });
}
