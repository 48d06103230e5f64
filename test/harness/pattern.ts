/** The content that the test targets give their memory; test/targets/target.h has the same. */

const MASK = (1n << 64n) - 1n;
const STEP = 0x9e3779b97f4a7c15n;
const PAGE_BYTES = 4096;

/** splitmix64 of an address and a seed. */
export function wordAt(address: bigint, seed: bigint): bigint {
  let z = (address + seed * STEP + STEP) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** A page, or part of one, filled from `key` on. */
export function patternBytes(key: bigint, seed: bigint, bytes = PAGE_BYTES): Uint8Array {
  const words = new BigUint64Array(Math.ceil(bytes / 8));
  for (let i = 0; i < words.length; i++) words[i] = wordAt(key + BigInt(i * 8), seed);
  return new Uint8Array(words.buffer, 0, bytes);
}
