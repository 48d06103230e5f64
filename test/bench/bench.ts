/** What every figure is made with: targets, dumps, and a place for them. */
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CoreResult } from '@sluice/core';
import { BenchTarget } from './bench_target.js';
import { isInstalled, shortageFor } from './machine.js';
import type { BenchOptions } from './options.js';
import { runProgram } from './processes.js';
import {
  clockUs,
  cpuBetween,
  type DumpAnswer,
  type DumpRequest,
  type DumpSample,
} from './sample.js';

const DUMP_ONCE = fileURLToPath(new URL('./dump_once.js', import.meta.url));
const SLUICE = fileURLToPath(new URL('../../../packages/cli/bin/sluice.js', import.meta.url));
const MEBI = 1024 ** 2;

export type DumpChoice = Omit<DumpRequest['options'], 'dir'>;
export type Faults = NonNullable<DumpRequest['faults']>;

/** A core that was made by a command. */
export interface CoreSample {
  /** From the start of the command until its end. */
  madeUs: number;
  /** From the start of the command until the file system was synced. */
  onDiskUs: number;
  /** Of the core, on the disk. */
  bytes: number;
}

/** How dumps are made here when nothing is asked for. */
export interface Defaults {
  capture: string;
  /** Why it is not vmsplice, or ``. */
  captureReason: string;
  tracker: string;
  /** Why it is none, or ``. */
  trackerReason: string;
  io: string;
  lanes: number;
  shards: number;
}

/** Pages that are written again and again are in several rounds. */
const ROUNDS_SHARE = 2;

/** A small dump: enough to learn the defaults. */
const SMALL_MIB = 16;

/** To be said by figures that are held against it. */
export const NO_GCORE = 'gcore is not installed (package gdb): nothing to compare with';

/** A figure cannot be had here; the message says why. */
export class Skipped extends Error {}

export class Bench {
  readonly options: BenchOptions;
  /** Directory of this run; all that is written is in it. */
  readonly scratch: string;
  /** What dumps warned of, each once. */
  readonly warnings = new Set<string>();
  readonly #tell: (text: string) => void;
  readonly #skippedSizes = new Map<number, string>();
  readonly hasGcore = isInstalled('gcore');
  readonly #canSync = isInstalled('sync');
  #defaults: Defaults | undefined;

  constructor(options: BenchOptions, scratch: string, tell: (text: string) => void) {
    this.options = options;
    this.scratch = scratch;
    this.#tell = tell;
  }

  /** Says to whoever watches what is going on. */
  tell(text: string): void {
    this.#tell(text);
  }

  /** The sizes that fit under one freeze, ascending. */
  sizes(): number[] {
    return this.#fitting(this.options.sizesMib, 1);
  }

  /** The sizes for dumps in rounds that fit, ascending. */
  roundsSizes(): number[] {
    return this.#fitting(this.options.roundsSizesMib, ROUNDS_SHARE);
  }

  #fitting(sizesMib: number[], imageShare: number): number[] {
    return sizesMib.filter((mib) => {
      const shortage = shortageFor(mib, mib * imageShare, this.scratch);
      if (shortage !== undefined) this.#skippedSizes.set(mib, shortage);
      return shortage === undefined;
    });
  }

  /** The two largest that fit, or the only one; for what depends on size. */
  largeSizes(): number[] {
    const sizes = this.sizes().slice(-2);
    if (sizes.length === 0) throw new Skipped('no target of the sizes asked for fits here');
    return sizes;
  }

  /** The smaller of those; for what depends on something else than size. */
  middleSize(): number {
    return Math.min(...this.largeSizes());
  }

  /** Sizes that were asked for and did not fit, and why. */
  get skippedSizes(): ReadonlyMap<number, string> {
    return this.#skippedSizes;
  }

  async withTarget<Value>(mib: number, use: (target: BenchTarget) => Promise<Value>) {
    this.tell(`starting a target of ${mib} MiB`);
    const target = await BenchTarget.start(mib);
    try {
      return await use(target);
    } finally {
      await target.close();
    }
  }

  /** Dumps a target in a new process, and removes the image. */
  async dump(target: BenchTarget, choice: DumpChoice, faults: Faults = []): Promise<DumpSample> {
    const dir = join(this.scratch, 'image');
    const request: DumpRequest = { pid: target.pid, options: { ...choice, dir }, faults };
    try {
      const before = await target.usage();
      const args = [DUMP_ONCE, JSON.stringify(request)];
      const said = await runProgram('dump', process.execPath, args);
      const after = await target.usage();
      const answer = JSON.parse(said) as DumpAnswer;
      checkWhole(answer, target, choice);
      for (const warning of answer.result.warnings) this.warnings.add(warning);
      return {
        ...answer,
        helpersCpu: cpuBetween(before.children, after.children),
        targetCpu: cpuBetween(before.self, after.self),
      };
    } finally {
      await rm(dir, { recursive: true, force: true });
      await this.settle();
    }
  }

  /** Dumps a target with gcore, and removes the file. */
  async gcore({ pid }: BenchTarget): Promise<CoreSample> {
    const prefix = join(this.scratch, 'core');
    return this.#core(`${prefix}.${pid}`, async () => {
      await runProgram('gcore', 'gcore', ['-o', prefix, String(pid)], { group: true });
    });
  }

  /** Makes a core of a target with the command `sluice core`, and removes the file. */
  async core({ pid }: BenchTarget): Promise<CoreSample & { result: CoreResult }> {
    const out = join(this.scratch, 'core');
    let said = '';
    const sample = await this.#core(out, async () => {
      const args = [SLUICE, 'core', '--pid', String(pid), '--out', out, '--json'];
      said = await runProgram('sluice core', process.execPath, args);
    });
    return { ...sample, result: JSON.parse(said) as CoreResult };
  }

  async #core(file: string, make: () => Promise<void>): Promise<CoreSample> {
    const startUs = clockUs();
    try {
      await make();
      const madeUs = clockUs();
      await this.settle();
      const { blocks } = await stat(file);
      return { madeUs: madeUs - startUs, onDiskUs: clockUs() - startUs, bytes: blocks * 512 };
    } finally {
      await rm(file, { force: true });
      await this.settle();
    }
  }

  /** Learnt from a first dump, which also brings all programs into the page cache. */
  async defaults(): Promise<Defaults> {
    if (this.#defaults === undefined) {
      const choice = { checksum: 'none' } as const;
      const { result } = await this.withTarget(SMALL_MIB, (target) => this.dump(target, choice));
      const { capture, tracker, io, lanes, shards } = result;
      const { capture_reason: captureReason, tracker_reason: trackerReason } = result;
      this.#defaults = { capture, captureReason, tracker, trackerReason, io, lanes, shards };
    }
    return this.#defaults;
  }

  /** Writes out what earlier runs have left to be written, so that no run pays for the last. */
  async settle(): Promise<void> {
    if (this.#canSync) await runProgram('sync', 'sync', ['-f', this.scratch]);
  }
}

/** A figure of something else than was asked for would mislead. */
function checkWhole({ result }: DumpAnswer, target: BenchTarget, choice: DumpChoice): void {
  if (result.bytes_written < target.mib * MEBI) {
    throw new Error(`the dump of ${target.mib} MiB holds only ${result.bytes_written} bytes`);
  }
  if (choice.capture !== undefined && choice.capture !== result.capture) {
    throw new Error(`asked for capture ${choice.capture}, got ${result.capture}`);
  }
}
