/** Dumps for tests: into a directory that goes away, with limits on hangs. */
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type DumpOptions,
  type DumpProgress,
  type DumpResult,
  type Image,
  openImage,
  type RoundProgress,
  SluiceError,
} from '@sluice/core';
import { expect } from 'vitest';
import { dumpProcess } from './patient.js';
import { TempDir } from './temp.js';
import { within } from './wait.js';

/** A finished dump and its image. */
export class Dump implements AsyncDisposable {
  readonly result: DumpResult;
  readonly image: Image;
  readonly #dir: TempDir;

  constructor(result: DumpResult, image: Image, dir: TempDir) {
    this.result = result;
    this.image = image;
    this.#dir = dir;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.image.close();
    await this.#dir[Symbol.asyncDispose]();
  }
}

export type Options = Omit<DumpOptions, 'dir'>;

/**
 * Dumps a process and opens the image; whatever fails, nothing is left.
 *
 * @param atRound Is told of each round, not long after it has begun.
 */
export async function dumpOf(
  pid: number,
  options: Options = {},
  atRound?: (round: RoundProgress) => void,
): Promise<Dump> {
  const dir = new TempDir();
  try {
    const path = dir.join('image');
    const dump = dumpProcess(pid, { ...options, dir: path });
    const told = atRound === undefined ? undefined : tellRounds(dump, atRound);
    const [result] = await within('a dump', Promise.all([dump, told]));
    return new Dump(result, await openImage(path), dir);
  } catch (error) {
    await dir[Symbol.asyncDispose]();
    throw error;
  }
}

async function tellRounds(
  dump: AsyncIterable<DumpProgress>,
  atRound: (round: RoundProgress) => void,
): Promise<void> {
  let last = 0;
  for await (const { round } of dump) {
    if (round === null || round.number === last) continue;
    last = round.number;
    atRound(round);
  }
}

/** A dump that must fail with a `SluiceError`, and must leave no file. */
export async function failedDumpOf(pid: number, options: Options = {}): Promise<SluiceError> {
  await using dir = new TempDir();
  const error = await failureOf(dumpProcess(pid, { ...options, dir: dir.join('image') }));
  expect(readdirSync(dir.path)).toEqual([]);
  return error;
}

/** The `SluiceError` that a promise must reject with. */
export async function failureOf(promise: PromiseLike<unknown>): Promise<SluiceError> {
  let value: unknown;
  try {
    value = await within('a dump to fail', promise);
  } catch (error) {
    if (SluiceError.isSluiceError(error)) return error;
    throw error;
  }
  throw new Error(`Did not fail, but returned ${JSON.stringify(value)}`);
}

/** Tells as each live round of a dump into `path` begins, sooner than its progress does. */
export async function followRounds(
  path: string,
  dump: PromiseLike<unknown>,
  atRound: (number: number) => void,
): Promise<void> {
  let running = true;
  const end = () => {
    running = false;
  };
  dump.then(end, end);
  for (let next = 1; running; ) {
    if (existsSync(`${path}/round-${String(next).padStart(4, '0')}`)) atRound(next++);
    else await sleep(1);
  }
}

/** The addresses of the stored pages as ranges that do not touch. */
export function storedRanges(image: Image, pid: number): { start: bigint; end: bigint }[] {
  const ranges: { start: bigint; end: bigint }[] = [];
  for (const { address, pages } of image.runs(pid)) {
    const end = address + BigInt(pages) * 4096n;
    const last = ranges.at(-1);
    if (last?.end === address) last.end = end;
    else ranges.push({ start: address, end });
  }
  return ranges;
}

/** Why files here cannot be written with O_DIRECT, or undefined. */
export async function directRefusal(): Promise<string | undefined> {
  await using dir = new TempDir();
  try {
    closeSync(
      openSync(dir.join('probe'), constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT),
    );
    return undefined;
  } catch (error) {
    const { type } = mountOf(dir.path);
    return `${type} takes no O_DIRECT: ${(error as Error).message}`;
  }
}

function mountOf(path: string): { point: string; type: string } {
  const mounts = readFileSync('/proc/self/mounts', 'latin1')
    .split('\n')
    .map((line) => line.split(' '))
    .map(([, point = '', type = '']) => ({ point, type }))
    .filter(({ point }) => point !== '' && path.startsWith(point));
  return mounts.reduce((best, mount) => (mount.point.length >= best.point.length ? mount : best), {
    point: '',
    type: 'an unknown file system',
  });
}
