import { SluiceError } from '../errors.js';

/** The error for damage in a file of an image. */
export function corrupt(file: string, offset: number, what: string, cause?: unknown): SluiceError {
  const message = `${file} is damaged at offset ${offset}: ${what}`;
  return new SluiceError('ERR_SLUICE_IMAGE_CORRUPT', message, { file, offset, cause });
}

/** An address as people write it. */
export function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}
