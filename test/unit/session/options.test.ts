import { availableParallelism } from 'node:os';
import { describe, expect, it } from 'vitest';
import {
  checkPid,
  resolveDumpOptions,
  resolvePreDumpOptions,
  resolveTargetOptions,
} from '../../../packages/core/dist/session/options.js';

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    return (error as Error).message;
  }
  throw new Error('nothing was thrown');
}

describe('resolveDumpOptions', () => {
  it('fills in the defaults', () => {
    expect(resolveDumpOptions({ dir: 'image' })).toEqual({
      dir: 'image',
      format: 'sluice',
      lanes: Math.min(4, availableParallelism()),
      drains: Math.min(2, availableParallelism()),
      capture: 'auto',
      io: 'auto',
      checksum: 'crc32c',
      budgetBytes: 64 * 1024 * 1024,
      freezeTimeoutMs: 1000,
      freezeLimitMs: 10_000,
      rounds: 'auto',
      freezeBudgetMs: undefined,
      timeLimitMs: undefined,
      noConverge: 'finish',
      tracker: 'auto',
      after: 'resume',
      consistency: 'auto',
      force: false,
      durable: true,
      signal: undefined,
      logger: undefined,
    });
  });

  it('limits a freeze only if the target is to go on, or if asked to', () => {
    const limitOf = (options: object) =>
      resolveDumpOptions({ dir: 'image', ...options }).freezeLimitMs;
    expect(limitOf({ after: 'stop' })).toBe(undefined);
    expect(limitOf({ after: 'stop', freezeLimitMs: 7 })).toBe(7);
    expect(limitOf({ freezeLimitMs: 3_600_000 })).toBe(3_600_000);
  });

  it('takes undefined for an option that was not given', () => {
    expect(resolveDumpOptions({ dir: 'image', lanes: undefined, io: undefined })).toEqual(
      resolveDumpOptions({ dir: 'image' }),
    );
  });

  it('takes signals and loggers by their shape', () => {
    const { signal } = new AbortController();
    const logger = { warn() {} };
    const resolved = resolveDumpOptions({ dir: 'image', signal, logger });
    expect(resolved.signal).toBe(signal);
    expect(resolved.logger).toBe(logger);
  });

  it.each([
    [undefined, 'Options: expected an object, got undefined'],
    [{}, 'Option "dir": expected a path, got undefined'],
    [{ dir: '' }, 'Option "dir": expected a path, got ""'],
    [{ dir: 'a\0b' }, 'Option "dir": expected a path, got "a\\u0000b"'],
    [{ dir: 'x', format: 'elf' }, 'Option "format": expected one of "sluice", "criu", got "elf"'],
    [{ dir: 'x', lanes: 0 }, 'Option "lanes": expected a whole number from 1 to 64, got 0'],
    [{ dir: 'x', lanes: 65 }, 'Option "lanes": expected a whole number from 1 to 64, got 65'],
    [{ dir: 'x', drains: 1.5 }, 'Option "drains": expected a whole number from 1 to 64, got 1.5'],
    [
      { dir: 'x', lanes: Number.NaN },
      'Option "lanes": expected a whole number from 1 to 64, got NaN',
    ],
    [{ dir: 'x', lanes: '4' }, 'Option "lanes": expected a whole number from 1 to 64, got "4"'],
    [
      { dir: 'x', capture: 'mmap' },
      'Option "capture": expected one of "auto", "vmsplice", "read", got "mmap"',
    ],
    [{ dir: 'x', io: null }, 'Option "io": expected one of "auto", "direct", "buffered", got null'],
    [
      { dir: 'x', checksum: 'md5' },
      'Option "checksum": expected one of "crc32c", "none", got "md5"',
    ],
    [
      { dir: 'x', budgetBytes: 1n },
      'Option "budgetBytes": expected a whole number from 1048576 to 1073741824, got 1n',
    ],
    [
      { dir: 'x', freezeTimeoutMs: -1 },
      'Option "freezeTimeoutMs": expected a whole number from 1 to 60000, got -1',
    ],
    [
      { dir: 'x', rounds: 'many' },
      'Option "rounds": expected "auto" or a whole number from 0 to 250, got "many"',
    ],
    [
      { dir: 'x', rounds: 251 },
      'Option "rounds": expected "auto" or a whole number from 0 to 250, got 251',
    ],
    [{ dir: 'x', rounds: 31, drains: 33 }, '31 rounds with 33 drains make more than 1024 shards'],
    [
      { dir: 'x', freezeBudgetMs: 0 },
      'Option "freezeBudgetMs": expected milliseconds from 0.1 to 60000, got 0',
    ],
    [
      { dir: 'x', timeLimitMs: 0.5 },
      'Option "timeLimitMs": expected a whole number from 1 to 86400000, got 0.5',
    ],
    [
      { dir: 'x', noConverge: 'wait' },
      'Option "noConverge": expected one of "finish", "fail", got "wait"',
    ],
    [
      { dir: 'x', consistency: 'fork' },
      'Option "consistency": expected one of "auto", "copy", "twin", got "fork"',
    ],
    [
      { dir: 'x', consistency: 'twin', after: 'stop' },
      'Option "consistency": "twin" is for a target that goes on, but "after" is "stop"',
    ],
    [
      { dir: 'x', tracker: 'magic' },
      'Option "tracker": expected one of "auto", "uffd-wp", "soft-dirty", "none", got "magic"',
    ],
    [{ dir: 'x', after: 'kill' }, 'Option "after": expected one of "resume", "stop", got "kill"'],
    [
      { dir: 'x', signal: {} },
      'Option "signal": expected an AbortSignal, got a value of type object',
    ],
    [
      { dir: 'x', logger: { warn: 1 } },
      'Option "logger": expected a logger with functions like warn, got a value of type object',
    ],
  ])('refuses case %#', (options, message) => {
    expect(messageOf(() => resolveDumpOptions(options))).toBe(message);
  });

  it('names an unknown option and those it knows', () => {
    expect(messageOf(() => resolveDumpOptions({ dir: 'x', lane: 2 }))).toBe(
      'Unknown option "lane": expected one of dir, format, lanes, drains, capture, io, checksum, ' +
        'budgetBytes, freezeTimeoutMs, freezeLimitMs, rounds, freezeBudgetMs, timeLimitMs, noConverge, ' +
        'tracker, after, consistency, force, signal, logger',
    );
    expect(messageOf(() => resolveDumpOptions(JSON.parse('{"dir":"x","__proto__":1}')))).toMatch(
      /^Unknown option "__proto__"/,
    );
    expect(messageOf(() => resolveDumpOptions({ dir: 'x', toString: 1 }))).toMatch(
      /^Unknown option "toString"/,
    );
  });
});

describe('resolvePreDumpOptions', () => {
  it('makes one round in the order of addresses of it', () => {
    const resolved = resolvePreDumpOptions({ imagesDir: 'b', prevImagesDir: '../a' });
    const expected = {
      dir: 'b',
      prevImagesDir: '../a',
      tracker: 'soft-dirty',
      lanes: 1,
      drains: 1,
    };
    expect(resolved).toMatchObject({ ...expected, capture: 'auto', freezeTimeoutMs: 1000 });
    expect(resolvePreDumpOptions({ imagesDir: 'b' }).prevImagesDir).toBe(undefined);
  });

  it.each([
    [{}, 'Option "imagesDir": expected a path, got undefined'],
    [{ imagesDir: 'b', prevImagesDir: '' }, 'Option "prevImagesDir": expected a path, got ""'],
    [
      { imagesDir: 'b', rounds: 2 },
      'Unknown option "rounds": expected one of imagesDir, prevImagesDir, capture, io, budgetBytes, force, freezeTimeoutMs, freezeLimitMs, signal, logger',
    ],
  ])('refuses %j', (options, message) => {
    expect(messageOf(() => resolvePreDumpOptions(options))).toBe(message);
  });
});

describe('resolveTargetOptions', () => {
  it('knows only the logger', () => {
    expect(resolveTargetOptions({})).toEqual({});
    expect(messageOf(() => resolveTargetOptions({ dir: 'x' }))).toBe(
      'Unknown option "dir": expected one of logger',
    );
  });
});

describe('checkPid', () => {
  it.each([0, -1, 1.5, Number.NaN, 2 ** 22 + 1, '1', undefined, null, 1n])(
    'refuses case %#',
    (pid) => {
      expect(messageOf(() => checkPid(pid))).toMatch(/^Pid: expected a whole number from 1 to/);
    },
  );

  it('takes a pid', () => {
    expect(checkPid(1)).toBe(1);
  });
});
