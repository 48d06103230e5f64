import { describe, expect, it } from 'vitest';
import { address, byteCount, path, wholeNumber } from '../../../packages/cli/dist/values.js';

const NO_NUMBERS = ['', ' 1', '1 ', '-1', '+1', '1.0', '1e3', '0x', '0xg', '1_000', 'NaN', '١'];

describe('values', () => {
  it('takes whole numbers in decimal', () => {
    expect(wholeNumber('0')).toBe(0);
    expect(wholeNumber('042')).toBe(42);
    expect(() => wholeNumber('0x10')).toThrow('Expected a whole number.');
    expect(() => wholeNumber('9007199254740992')).toThrow('Expected a whole number.');
  });

  it('takes addresses in hex and decimal, exactly', () => {
    expect(address('0x7FFFffffF123')).toBe(0x7fffffff_f123n);
    expect(address('0Xff')).toBe(255n);
    expect(address('18446744073709551615')).toBe(2n ** 64n - 1n);
  });

  it('takes lengths in hex and decimal', () => {
    expect(byteCount('0x1000')).toBe(4096);
    expect(byteCount('4096')).toBe(4096);
    expect(() => byteCount('0x20000000000000')).toThrow('Expected a number of bytes');
  });

  it.each(NO_NUMBERS)('refuses %j', (text) => {
    for (const parse of [wholeNumber, address, byteCount]) expect(() => parse(text)).toThrow();
  });

  it('refuses what cannot be a path', () => {
    expect(path('a b')).toBe('a b');
    expect(() => path('')).toThrow('Expected a path.');
    expect(() => path('a\0b')).toThrow('Expected a path.');
  });
});
