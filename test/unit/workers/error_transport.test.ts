import { fromWire, toWire } from '@sluice/workers';
import { describe, expect, it } from 'vitest';

describe('error transport', () => {
  it('brings over what a structured clone would drop', () => {
    const error = Object.assign(new RangeError('no'), {
      code: 'ERR_SLUICE_IO',
      errno: 5,
      syscall: 'splice',
      pid: 9,
    });
    const rebuilt = fromWire(structuredClone(toWire(error)));
    expect(rebuilt).toBeInstanceOf(Error);
    expect(rebuilt).toMatchObject({
      name: 'RangeError',
      message: 'no',
      stack: error.stack,
      code: 'ERR_SLUICE_IO',
      errno: 5,
      syscall: 'splice',
      pid: 9,
    });
  });

  it('adds no empty properties', () => {
    expect(Object.keys(fromWire(toWire(new Error('x'))))).toEqual([]);
  });

  it('takes anything that can be thrown', () => {
    expect(fromWire(toWire('just a string')).message).toBe('just a string');
    expect(fromWire(toWire(undefined)).message).toBe('undefined');
    const odd = Object.assign(new Error('x'), { code: {}, errno: 'no', pid: () => 1 });
    expect(() => structuredClone(toWire(odd))).not.toThrow();
  });
});
