/** What a caller may ask of a dump, checked before anything is touched. */
import { availableParallelism } from 'node:os';
import * as v from 'valibot';
import { SluiceError } from '../errors.js';
import { MAX_SHARDS } from '../image/index.js';
import type { Captured, PlacedPages } from './capture.js';

/** A logger of pino's shape; any of the functions may be missing. */
export interface Logger {
  debug?(fields: object, message: string): void;
  info?(fields: object, message: string): void;
  warn?(fields: object, message: string): void;
  error?(fields: object, message: string): void;
}

/** Options of `openTarget`. */
export interface TargetOptions {
  /** For all dumps of this target that name no logger of their own. */
  logger?: Logger | undefined;
}

/** Options of a dump. Only `dir` has no default. */
export interface DumpOptions {
  /** Directory for the image. Must not exist, or be empty. */
  dir: string;
  /**
   * Default `sluice`. `criu`: the rounds become directories that CRIU reads; see docs/criu.md. Nothing of
   * an image of Sluice is left then.
   */
  format?: 'sluice' | 'criu' | undefined;
  /** Threads that capture, 1 to 64. Default: one per CPU, at most 4. */
  lanes?: number | undefined;
  /** Threads that write, and shards, 1 to 64. Default: one per CPU, at most 2. */
  drains?: number | undefined;
  /** How pages are taken from the target. Default `auto`: vmsplice where it works. */
  capture?: 'auto' | 'vmsplice' | 'read' | undefined;
  /** How shards are written. Default `auto`: O_DIRECT where the file system takes it. */
  io?: 'auto' | 'direct' | 'buffered' | undefined;
  /** Checksum of the shards. Default `crc32c`. */
  checksum?: 'crc32c' | 'none' | undefined;
  /** Most bytes pinned at once on their way to the shards, 1 MiB to 1 GiB. Default 64 MiB. */
  budgetBytes?: number | undefined;
  /**
   * Rounds that are taken while the target runs, before the freeze. Default `auto`: as many as pay, at
   * most 30. 0: everything is taken under one freeze. At most 250.
   */
  rounds?: 'auto' | number | undefined;
  /** Rounds go on until the freeze is not longer than this, 0.1 to 60,000 ms. Default: as short as pays. */
  freezeBudgetMs?: number | undefined;
  /** No further round begins that would end later than this after the start, 1 to 86,400,000 ms. */
  timeLimitMs?: number | undefined;
  /**
   * What to do when the target writes so fast that the freeze budget is not reached. Default `finish`:
   * freeze it for longer. `fail`: give up with `ERR_SLUICE_NO_CONVERGENCE` and leave it alone.
   */
  noConverge?: 'finish' | 'fail' | undefined;
  /** What tells which pages were written. Default `auto`: the best that works here. */
  tracker?: 'auto' | 'uffd-wp' | 'soft-dirty' | 'none' | undefined;
  /**
   * Default `resume`: the target goes on as soon as its last pages are copied. `stop`: it stays frozen
   * until `DumpResult.held` is told what to do with it.
   */
  after?: 'resume' | 'stop' | undefined;
  /**
   * How the last pages are kept as they were under freeze while the target goes on. `copy`: they are
   * copied under freeze. `twin`: under freeze a copy-on-write copy of the whole process is made, and read
   * when the target runs again; if there can be none, they are copied. Default `auto`: what takes less
   * time. Only with `after: 'resume'`; a target that stays stopped needs neither.
   */
  consistency?: 'auto' | 'copy' | 'twin' | undefined;
  /**
   * Default false: in a target whose seccomp filter would end it for a call that is injected, no call is,
   * because the filter would get its way if the dumper died at that very instant. Pages are read from
   * outside then, all of them under freeze. true takes the risk.
   */
  force?: boolean | undefined;
  /** Give up when not all threads stand still after this time, 1 to 60,000. Default 1000. */
  freezeTimeoutMs?: number | undefined;
  /**
   * The target is never frozen for longer than this, 1 to 3,600,000: then it goes on, whatever hangs, and the
   * dump fails with `ERR_SLUICE_FREEZE_LIMIT`. Default 10,000; none with `after: 'stop'`, where a target that
   * is held goes on by itself when the limit is reached.
   */
  freezeLimitMs?: number | undefined;
  /** Ends the dump: it rejects with `AbortError` after the target runs again. */
  signal?: AbortSignal | undefined;
  logger?: Logger | undefined;
}

/** Options with all defaults filled in. */
export interface ResolvedDumpOptions {
  dir: string;
  format: 'sluice' | 'criu';
  lanes: number;
  drains: number;
  capture: 'auto' | 'vmsplice' | 'read';
  io: 'auto' | 'direct' | 'buffered';
  checksum: 'crc32c' | 'none';
  budgetBytes: number;
  freezeTimeoutMs: number;
  /** Undefined: none. */
  freezeLimitMs: number | undefined;
  rounds: 'auto' | number;
  freezeBudgetMs: number | undefined;
  timeLimitMs: number | undefined;
  noConverge: 'finish' | 'fail';
  tracker: 'auto' | 'uffd-wp' | 'soft-dirty' | 'none';
  after: 'resume' | 'stop';
  consistency: 'auto' | 'copy' | 'twin';
  force: boolean;
  handOver: HandOver | undefined;
  /** Whether shards are brought to the disk; an image that is removed at once needs that not. */
  durable: boolean;
  /** Pages go to their places in one file, and no image is made. */
  placed: PlacedFile | undefined;
  signal: AbortSignal | undefined;
  logger: Logger | undefined;
}

/** A file in which every page has its place. */
export interface PlacedFile {
  /** It exists, and is empty. */
  file: string;
  /** Bytes at its start that are not for pages: whole pages. */
  from: number;
  /** Is told of each live round when its pages are written. */
  afterRound(): void;
  /** What is to be done when all pages are there, while the target is left. */
  complete(captured: Captured, pages: PlacedPages): Promise<void>;
}

/** For a dump whose rounds somebody else builds on. */
export interface HandOver {
  /**
   * Start and end by turns: pages in the image that the first round builds on, taken when soft-dirty bits
   * were reset last.
   */
  known: BigUint64Array;
  /** One live round is taken and nothing more: the final one is somebody else's. */
  only: boolean;
}

const MEBI = 1024 * 1024;
const GIBI = 1024 * MEBI;
/** Each is an image in the chain; with the final one it stays below what a reader follows. */
const MOST_ROUNDS = 250;
const HIGHEST_PID = 2 ** 22;
const FREEZE_LIMIT_MS = 10_000;

const LOGGER_FUNCTIONS = ['debug', 'info', 'warn', 'error'] as const;

/** A whole number in a range. */
export function whole(least: number, most: number) {
  return v.pipe(
    v.number(),
    v.integer(),
    v.minValue(least),
    v.maxValue(most),
    v.description(`a whole number from ${least} to ${most}`),
  );
}

function oneOf<const Choices extends readonly string[]>(...choices: Choices) {
  return v.pipe(
    v.picklist(choices),
    v.description(`one of ${choices.map((choice) => `"${choice}"`).join(', ')}`),
  );
}

const pid = whole(1, HIGHEST_PID);

const off = v.optional(v.pipe(v.boolean(), v.description('true or false')), false);

const logger = v.pipe(
  v.custom<Logger>(isLogger),
  v.description('a logger with functions like warn'),
);

const targetFields = { logger: v.optional(logger) };

export const path = v.pipe(v.string(), v.minLength(1), v.check(hasNoNul), v.description('a path'));

/** Options that a dump has, for others that make one. */
export const dumpFields = {
  dir: path,
  format: v.optional(oneOf('sluice', 'criu'), 'sluice'),
  lanes: v.optional(whole(1, 64), () => Math.min(4, availableParallelism())),
  drains: v.optional(whole(1, 64), () => Math.min(2, availableParallelism())),
  capture: v.optional(oneOf('auto', 'vmsplice', 'read'), 'auto'),
  io: v.optional(oneOf('auto', 'direct', 'buffered'), 'auto'),
  checksum: v.optional(oneOf('crc32c', 'none'), 'crc32c'),
  budgetBytes: v.optional(whole(MEBI, GIBI), 64 * MEBI),
  freezeTimeoutMs: v.optional(whole(1, 60_000), 1000),
  freezeLimitMs: v.optional(whole(1, 3_600_000)),
  rounds: v.optional(
    v.pipe(
      v.union([v.literal('auto'), whole(0, MOST_ROUNDS)]),
      v.description(`"auto" or a whole number from 0 to ${MOST_ROUNDS}`),
    ),
    'auto',
  ),
  freezeBudgetMs: v.optional(
    v.pipe(
      v.number(),
      v.minValue(0.1),
      v.maxValue(60_000),
      v.description('milliseconds from 0.1 to 60000'),
    ),
  ),
  timeLimitMs: v.optional(whole(1, 86_400_000)),
  noConverge: v.optional(oneOf('finish', 'fail'), 'finish'),
  tracker: v.optional(oneOf('auto', 'uffd-wp', 'soft-dirty', 'none'), 'auto'),
  after: v.optional(oneOf('resume', 'stop'), 'resume'),
  consistency: v.optional(oneOf('auto', 'copy', 'twin'), 'auto'),
  force: off,
  signal: v.optional(v.pipe(v.custom<AbortSignal>(isSignal), v.description('an AbortSignal'))),
  logger: v.optional(logger),
};

/**
 * Checks a pid.
 *
 * @throws `ERR_SLUICE_OPTION`
 */
export function checkPid(value: unknown): number {
  const result = v.safeParse(pid, value);
  if (!result.success) refuse('pid', v.getDescription(pid), value);
  return result.output;
}

/**
 * Checks the options of `openTarget`.
 *
 * @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came.
 */
export function resolveTargetOptions(value: unknown): TargetOptions {
  return parse(v.strictObject(targetFields), value);
}

/**
 * Checks the options of a dump and fills in the defaults.
 *
 * @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came.
 */
export function resolveDumpOptions(value: unknown): ResolvedDumpOptions {
  const { signal, logger, freezeBudgetMs, timeLimitMs, freezeLimitMs, ...rest } = parse(
    v.strictObject(dumpFields),
    value,
  );
  const shards = (rest.rounds === 'auto' ? 1 : rest.rounds + 1) * rest.drains;
  if (shards > MAX_SHARDS) {
    throw new SluiceError(
      'ERR_SLUICE_OPTION',
      `${rest.rounds} rounds with ${rest.drains} drains make more than ${MAX_SHARDS} shards`,
    );
  }
  if (rest.after === 'stop' && rest.consistency !== 'auto') {
    throw new SluiceError(
      'ERR_SLUICE_OPTION',
      `Option "consistency": "${rest.consistency}" is for a target that goes on, but "after" is "stop"`,
    );
  }
  const internal = { handOver: undefined, durable: true, placed: undefined };
  const limit = freezeLimitMs ?? (rest.after === 'resume' ? FREEZE_LIMIT_MS : undefined);
  const own = { freezeBudgetMs, timeLimitMs, freezeLimitMs: limit, signal, logger };
  return { ...rest, ...own, ...internal };
}

/** Options of a restore. All have defaults. */
export interface RestoreOptions {
  /**
   * Must be true, or the restore is refused with `ERR_SLUICE_UNSAFE`: if the dumper is killed while memory
   * and threads are taken back, the process goes on as a mixture of now and then.
   */
  force?: boolean | undefined;
  /**
   * Default false. true: shared memory and shared files are written even where other processes have them
   * mapped, and see them change.
   */
  shared?: boolean | undefined;
  /** Give up when not all threads stand still after this time, 1 to 60,000. Default 1000. */
  freezeTimeoutMs?: number | undefined;
  /**
   * The process does not stay frozen for longer than this without anything being done to it, 1 to 3,600,000:
   * then it goes on, whatever hangs. The restore fails with `ERR_SLUICE_FREEZE_LIMIT` if nothing was changed,
   * else with `ERR_SLUICE_RESTORE_INCOMPLETE`. Default 10,000.
   */
  freezeLimitMs?: number | undefined;
  /** Ends the restore as long as nothing has been changed: it rejects with `AbortError`. */
  signal?: AbortSignal | undefined;
  logger?: Logger | undefined;
}

/** Options of a restore with all defaults filled in. */
export interface ResolvedRestoreOptions {
  force: boolean;
  shared: boolean;
  freezeTimeoutMs: number;
  freezeLimitMs: number;
  signal: AbortSignal | undefined;
  logger: Logger | undefined;
}

/**
 * Checks the options of a restore and fills in the defaults.
 *
 * @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came.
 */
export function resolveRestoreOptions(value: unknown): ResolvedRestoreOptions {
  const { freezeTimeoutMs, freezeLimitMs, signal, logger } = dumpFields;
  const fields = { force: off, shared: off, freezeTimeoutMs, freezeLimitMs, signal, logger };
  const resolved = parse(v.strictObject(fields), value);
  const limit = resolved.freezeLimitMs ?? FREEZE_LIMIT_MS;
  return { ...resolved, freezeLimitMs: limit, signal: resolved.signal, logger: resolved.logger };
}

/** Options of a pre-dump. Only `imagesDir` has no default. */
export interface PreDumpOptions
  extends Pick<
    DumpOptions,
    | 'capture'
    | 'io'
    | 'budgetBytes'
    | 'force'
    | 'freezeTimeoutMs'
    | 'freezeLimitMs'
    | 'signal'
    | 'logger'
  > {
  /** Directory for the images. Must not exist, or be empty. */
  imagesDir: string;
  /**
   * Directory of the pre-dump before this one, as a path from `imagesDir`: only pages written since are
   * taken. Default: all are.
   */
  prevImagesDir?: string | undefined;
}

/**
 * Checks the options of a pre-dump and fills in the defaults: a dump of one live round.
 *
 * @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came.
 */
export function resolvePreDumpOptions(
  value: unknown,
): ResolvedDumpOptions & { prevImagesDir: string | undefined } {
  const { capture, io, budgetBytes, force, freezeTimeoutMs, freezeLimitMs, signal, logger } =
    dumpFields;
  const fields = {
    capture,
    io,
    budgetBytes,
    force,
    freezeTimeoutMs,
    freezeLimitMs,
    signal,
    logger,
  };
  const preDump = { imagesDir: path, prevImagesDir: v.optional(path), ...fields };
  const { imagesDir, prevImagesDir, ...rest } = parse(v.strictObject(preDump), value);
  // Pages come to a shard by address then, as CRIU has them, and need not be copied once more.
  const inOrder = { lanes: 1, drains: 1 };
  // Without a final round there is no choice to make, and nothing to measure for it.
  const round = { dir: imagesDir, tracker: 'soft-dirty', rounds: 1, consistency: 'copy' };
  return { ...resolveDumpOptions({ ...rest, ...round, ...inOrder }), prevImagesDir };
}

type Fields = Record<string, v.GenericSchema>;

/**
 * Checks options.
 *
 * @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came.
 */
export function parse<const T extends Fields>(
  schema: v.StrictObjectSchema<T, undefined>,
  value: unknown,
): v.InferOutput<v.StrictObjectSchema<T, undefined>> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const key = issue.path?.[0]?.key;
  if (typeof key !== 'string') {
    throw new SluiceError(
      'ERR_SLUICE_OPTION',
      `Options: expected an object, got ${describe(value)}`,
    );
  }
  const field = Object.hasOwn(schema.entries, key) ? schema.entries[key] : undefined;
  if (field === undefined) {
    const known = Object.keys(schema.entries).join(', ');
    throw new SluiceError('ERR_SLUICE_OPTION', `Unknown option "${key}": expected one of ${known}`);
  }
  const got = (value as Record<string, unknown>)[key];
  return refuse(`option "${key}"`, descriptionOf(field), got);
}

function descriptionOf(field: v.GenericSchema): string | undefined {
  const inner = 'wrapped' in field ? (field.wrapped as v.GenericSchema) : field;
  return v.getDescription(inner);
}

function refuse(what: string, expected: string | undefined, got: unknown): never {
  const subject = what.charAt(0).toUpperCase() + what.slice(1);
  throw new SluiceError(
    'ERR_SLUICE_OPTION',
    `${subject}: expected ${expected ?? 'another value'}, got ${describe(got)}`,
  );
}

function describe(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 80));
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'bigint') return `${value}n`;
  return Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`;
}

function isLogger(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const candidate = value as Record<string, unknown>;
  return LOGGER_FUNCTIONS.every((name) =>
    ['undefined', 'function'].includes(typeof candidate[name]),
  );
}

/** By shape and not by class: signals of other realms and of polyfills serve as well. */
function isSignal(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { aborted, addEventListener } = value as Record<string, unknown>;
  return typeof aborted === 'boolean' && typeof addEventListener === 'function';
}

function hasNoNul(path: string): boolean {
  return !path.includes('\0');
}
