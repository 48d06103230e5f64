import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import { AbortError, ERRORS, SluiceError } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { fromNative, withThawed } from '../../../packages/core/dist/errors.js';

const DOC = new URL('../../../docs/errors.md', import.meta.url);

describe('docs/errors.md', () => {
  it('says the same as the table', () => {
    const rows = readFileSync(DOC, 'utf8')
      .split('\n')
      .map((line) => /^\| `(ERR_SLUICE_\w+)` \| (.+) \| (.+) \|$/.exec(line))
      .filter((row) => row !== null)
      .map(([, code, summary, advice]) => [code, { summary, advice }]);
    expect(rows).toEqual(Object.entries(ERRORS));
  });
});

describe('SluiceError', () => {
  const error = new SluiceError('ERR_SLUICE_PERMISSION', 'ptrace was refused', {
    pid: 7,
    syscall: 'ptrace',
    errno: 1,
  });

  it('carries code, details and advice, and no empty properties', () => {
    expect(error).toMatchObject({ name: 'SluiceError', message: 'ptrace was refused' });
    expect(Object.keys(error)).toEqual(['code', 'pid', 'syscall', 'errno']);
    expect(error.advice).toBe(ERRORS.ERR_SLUICE_PERMISSION.advice);
    expect('cause' in error).toBe(false);
  });

  it('prints code and name', () => {
    expect(inspect(error)).toMatch(/SluiceError: ptrace was refused[\s\S]*ERR_SLUICE_PERMISSION/);
  });

  it('is known by its brand, also when it is of another copy of the package', () => {
    const foreign = Object.assign(new Error('x'), { [Symbol.for('sluice.error')]: true });
    expect(SluiceError.isSluiceError(error)).toBe(true);
    expect(SluiceError.isSluiceError(foreign)).toBe(true);
    expect(SluiceError.isSluiceError(new Error('x'))).toBe(false);
    expect(SluiceError.isSluiceError(undefined)).toBe(false);
  });
});

describe('AbortError', () => {
  it('has the shape that Node gives its own', () => {
    const error = new AbortError('enough');
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' });
  });
});

describe('fromNative', () => {
  it('keeps what the addon said', () => {
    const native = Object.assign(new Error('gone'), {
      code: 'ERR_SLUICE_TARGET_EXITED',
      errno: 3,
      syscall: 'ptrace',
      pid: 42,
    });
    const error = fromNative(native, { pid: 1, file: 'f' });
    expect(error).toMatchObject({
      code: 'ERR_SLUICE_TARGET_EXITED',
      message: 'gone',
      errno: 3,
      syscall: 'ptrace',
      pid: 42,
      file: 'f',
      cause: native,
    });
  });

  it.each([
    ['ENOSPC', 'ERR_SLUICE_DISK_FULL'],
    ['EDQUOT', 'ERR_SLUICE_DISK_FULL'],
    ['EIO', 'ERR_SLUICE_IO'],
  ])('knows %s of a file system call', (code, expected) => {
    const native = Object.assign(new Error('x'), { code, errno: -5, syscall: 'write', path: '/d' });
    expect(fromNative(native)).toMatchObject({ code: expected, errno: 5, file: '/d' });
  });

  it.each([
    new SluiceError('ERR_SLUICE_IO', 'x'),
    new AbortError('x'),
    new TypeError('a bug'),
    Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG_TYPE' }),
  ])('leaves %s as it is', (error) => {
    expect(fromNative(error)).toBe(error);
  });

  it('makes an error of anything that was thrown', () => {
    expect(fromNative('oops')).toMatchObject({ message: 'oops' });
  });
});

describe('withThawed', () => {
  it('does not overrule what the error says already', () => {
    const error = new SluiceError('ERR_SLUICE_IO', 'x', { thawed: false });
    expect(withThawed(error, true)).toMatchObject({ thawed: false });
    expect(withThawed(new SluiceError('ERR_SLUICE_IO', 'x'), true)).toMatchObject({ thawed: true });
  });
});
