import { AbortError, ERRORS, SluiceError, type SluiceErrorCode } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { describeFailure } from '../../../packages/cli/dist/failure.js';
import { Interruption, InterruptScope } from '../../../packages/cli/dist/interrupt.js';

describe('describeFailure', () => {
  it.each(Object.keys(ERRORS) as SluiceErrorCode[])('tells %s in one line', (code) => {
    const { line, status } = describeFailure(new SluiceError(code, 'This went wrong'));
    expect(line.startsWith(`sluice: ${code}: This went wrong`)).toBe(true);
    expect(line).not.toContain('\n');
    expect(status).toBe(code === 'ERR_SLUICE_OPTION' ? 2 : 1);
    if (status === 1) expect(line.endsWith(` (${ERRORS[code].advice})`)).toBe(true);
  });

  it('joins the lines of a message and lets nothing through that moves a cursor', () => {
    const error = new SluiceError('ERR_SLUICE_IO', 'Tried:\n  - this\n  - \u001b[2Jthat\n');
    expect(describeFailure(error).line).toContain(': Tried: - this - \\x1b[2Jthat (');
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('gives %s the status %i', (name, status) => {
    expect(describeFailure(new AbortError(new Interruption(name)))).toEqual({
      line: `sluice: ABORT_ERR: The operation was aborted by ${name} (The target runs on; nothing was kept.)`,
      status,
    });
  });

  it.each([
    [new TypeError('x is not a function'), 'TypeError: x is not a function'],
    ['a string', 'a string'],
    [undefined, 'undefined'],
  ])('calls anything else a bug: %s', (error, text) => {
    const { line, status } = describeFailure(error);
    expect(line).toMatch(/^sluice: INTERNAL: .* \(This is a bug in Sluice\..*\)$/);
    expect(line).toContain(text);
    expect(status).toBe(1);
  });
});

describe('InterruptScope', () => {
  it('turns a signal into an abort, and only within the scope', () => {
    const before = process.listenerCount('SIGHUP');
    let signal: AbortSignal;
    {
      using scope = new InterruptScope();
      signal = scope.signal;
      expect(signal.aborted).toBe(false);
      // Emitting is enough: how signals arrive is up to Node.
      process.emit('SIGHUP', 'SIGHUP');
      process.emit('SIGINT', 'SIGINT');
    }
    expect(signal.reason).toBeInstanceOf(Interruption);
    expect(signal.reason.signalName).toBe('SIGHUP');
    expect(process.listenerCount('SIGHUP')).toBe(before);
  });
});
