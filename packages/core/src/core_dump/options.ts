/** What a caller may ask of a core, checked before anything is touched. */
import type { Writable } from 'node:stream';
import * as v from 'valibot';
import {
  type DumpOptions,
  dumpFields,
  type Logger,
  parse,
  path,
  whole,
} from '../session/options.js';
import { MOST_FILTER } from './filter.js';

/** Options of a core. Only `out` has no default. */
export interface CoreOptions {
  /** A file that does not exist yet; or a stream, which is not ended. */
  out: string | Writable;
  /** Which process of the image. Default: the only one. */
  pid?: number | undefined;
  /** Which mappings it holds, as `/proc/PID/coredump_filter` (core(5)). Default 0x33. */
  filter?: number | undefined;
  /** Ends it: it rejects with `AbortError`, and nothing is left. */
  signal?: AbortSignal | undefined;
  logger?: Logger | undefined;
}

/** Options of the core of a live process. Only `out` has no default; those of a dump have its own. */
export interface CoreProcessOptions
  extends Omit<CoreOptions, 'pid'>,
    Pick<DumpOptions, (typeof DUMP_OPTIONS)[number]> {
  /** As for other cores, but by default that of the process itself. */
  filter?: number | undefined;
  /**
   * For an image in this directory, of which the core is made then. It needs as much room as the core. Default:
   * to a file no image is needed; for a stream it is in the directory for temporary files.
   */
  temporaryDir?: string | undefined;
}

const DUMP_OPTIONS = [
  'lanes',
  'drains',
  'capture',
  'budgetBytes',
  'rounds',
  'freezeBudgetMs',
  'timeLimitMs',
  'noConverge',
  'tracker',
  'consistency',
  'force',
  'freezeTimeoutMs',
  'freezeLimitMs',
] as const;

const stream = v.pipe(v.custom<Writable>(isWritable), v.description('a stream'));
const { signal, logger } = dumpFields;

const coreFields = {
  out: v.pipe(v.union([path, stream]), v.description('a path or a stream that can be written to')),
  filter: v.optional(whole(0, MOST_FILTER)),
  signal,
  logger,
};

const processFields = {
  ...coreFields,
  temporaryDir: v.optional(path),
  ...Object.fromEntries(DUMP_OPTIONS.map((name) => [name, dumpFields[name]])),
};

/** @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came. */
export function resolveCoreOptions(value: unknown): CoreOptions {
  const fields = { ...coreFields, pid: v.optional(whole(1, 2 ** 22)) };
  return parse(v.strictObject(fields), value);
}

/** Options of the core of a live process, apart from each other. */
export interface ResolvedCoreProcessOptions {
  core: Omit<CoreOptions, 'pid'>;
  dump: Omit<DumpOptions, 'dir'>;
  temporaryDir: string | undefined;
}

/** @throws `ERR_SLUICE_OPTION`, naming the option, what was expected and what came. */
export function resolveCoreProcessOptions(value: CoreProcessOptions): ResolvedCoreProcessOptions {
  parse(v.strictObject(processFields), value);
  const { out, filter, temporaryDir, ...dump } = value;
  const { signal, logger } = dump;
  return { core: { out, filter, signal, logger }, dump, temporaryDir };
}

function isWritable(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { write, on } = value as Record<string, unknown>;
  return typeof write === 'function' && typeof on === 'function';
}
