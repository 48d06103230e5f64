/** The yardstick: test/targets/bench_rawwrite.c. */
import { programOf } from './machine.js';
import { runProgram } from './processes.js';

/** How the bytes are written. */
export interface RawConfig {
  writeKib: number;
  threads: number;
  /**
   * Where the bytes come from: `memory` is as large as to be in no cache, like the memory of a
   * target; `buffer` is as large as one write, used again and again, and stays in the cache.
   */
  source: RawSource;
}

export type RawSource = 'memory' | 'buffer';

/** More than caches hold. */
const SOURCE_MIB: Record<RawSource, number> = { memory: 1024, buffer: 0 };

/** Times of one run, in microseconds. */
export interface RawSample {
  bytes: number;
  /** Create and preallocate. */
  openUs: number;
  writeUs: number;
  syncUs: number;
  totalUs: number;
}

export const RAW_CONFIGS: readonly RawConfig[] = (['memory', 'buffer'] as const).flatMap((source) =>
  [1, 2].flatMap((threads) =>
    [1024, 4096, 16384].map((writeKib) => ({ writeKib, threads, source })),
  ),
);

export function nameOf({ writeKib, threads }: RawConfig): string {
  return `${threads} × ${writeKib / 1024} MiB`;
}

/** Writes `bytes` into new files in `dir` and removes them. */
export async function rawWrite(
  dir: string,
  bytes: number,
  { writeKib, threads, source }: RawConfig,
): Promise<RawSample> {
  const args = [dir, bytes, writeKib, threads, SOURCE_MIB[source]].map(String);
  return JSON.parse(await runProgram('raw write', programOf('bench_rawwrite'), args));
}
