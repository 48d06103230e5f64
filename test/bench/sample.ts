/** What one process that makes one dump tells about it: between bench.ts and dump_once.ts. */
import type { DumpOptions, DumpResult } from '@sluice/core';
import type { FaultSpec } from '../harness/faults.js';

/** What `dump_once.ts` gets, as JSON in its only argument. */
export interface DumpRequest {
  pid: number;
  options: Pick<
    DumpOptions,
    'dir' | 'lanes' | 'capture' | 'io' | 'checksum' | 'rounds' | 'consistency'
  >;
  /** Failures of system calls, made to order. */
  faults?: FaultSpec[];
}

/** CPU time in microseconds. */
export interface CpuTime {
  userUs: number;
  systemUs: number;
}

/** What `dump_once.ts` answers. */
export interface DumpAnswer {
  result: Omit<DumpResult, 'dir' | 'left_out' | 'held'>;
  /** When `dump()` was called: microseconds of CLOCK_MONOTONIC, as `process.hrtime`. */
  startUs: number;
  /** From the call of `dump()` until the image was published, as the caller sees it. */
  dumpUs: number;
  /** All threads of the dumper. */
  threadsCpu: CpuTime;
  /** Its tracer tasks, which are processes to the kernel. Counted in steps of 10 ms. */
  tracersCpu: CpuTime;
  /** Resident with the library loaded and nothing done. */
  idleBytes: number;
  /** Most that was ever resident after that. */
  peakBytes: number;
}

/** One dump, with what the target knows about it. */
export interface DumpSample extends DumpAnswer {
  /** The helpers, which the target has reaped. */
  helpersCpu: CpuTime;
  /** The target itself, which does nothing of its own meanwhile. */
  targetCpu: CpuTime;
}

/** Microseconds of CLOCK_MONOTONIC, the same in all processes. */
export function clockUs(): number {
  return Number(process.hrtime.bigint()) / 1000;
}

export function microseconds({ userUs, systemUs }: CpuTime): number {
  return userUs + systemUs;
}

export function cpuBetween(before: CpuTime, after: CpuTime): CpuTime {
  return { userUs: after.userUs - before.userUs, systemUs: after.systemUs - before.systemUs };
}
