import { addon } from '@sluice/native';

/** CRC32C (Castagnoli) of the bytes as an unsigned number, continuing from `seed` (0 to start). */
export type Crc32c = (bytes: Uint8Array, seed: number) => number;

/** That of the addon, which is loaded when it is first called. */
export const nativeCrc32c: Crc32c = (bytes, seed) => addon.crc32c(bytes, seed);
