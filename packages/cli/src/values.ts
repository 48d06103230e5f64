/**
 * Parsers of arguments. They check only what makes the text a value; which values make sense is known
 * to the library, and an error of it is wrong usage as well.
 */
import { InvalidArgumentError } from 'commander';

const DECIMAL = /^[0-9]+$/;
const DECIMAL_OR_HEX = /^(?:[0-9]+|0x[0-9a-f]+)$/i;

/** A whole number like `4`; nothing else that JavaScript would take for one. */
export function wholeNumber(text: string): number {
  const value = DECIMAL.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('Expected a whole number.');
  return value;
}

/** `auto` or a whole number. */
export function autoOrWholeNumber(text: string): 'auto' | number {
  return text === 'auto' ? text : wholeNumber(text);
}

/** A number like `2` or `0.5`, times `factor`. */
export function decimal(factor: number): (text: string) => number {
  return (text) => {
    const value = /^[0-9]+(?:\.[0-9]+)?$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isFinite(value)) throw new InvalidArgumentError('Expected a number like 2 or 0.5.');
    return value * factor;
  };
}

export function address(text: string): bigint {
  if (!DECIMAL_OR_HEX.test(text)) {
    throw new InvalidArgumentError('Expected an address like 0x7f0000001000, or in decimal.');
  }
  return BigInt(text);
}

export function byteCount(text: string): number {
  const value = DECIMAL_OR_HEX.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Expected a number of bytes like 4096, or in hex with 0x.');
  }
  return value;
}

/** Bits like `0x33`, or in decimal. */
export function mask(text: string): number {
  const value = DECIMAL_OR_HEX.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Expected a mask like 0x33, or in decimal.');
  }
  return value;
}

export function path(text: string): string {
  if (text === '' || text.includes('\0')) throw new InvalidArgumentError('Expected a path.');
  return text;
}
