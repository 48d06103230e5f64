/** What the key-value server holds: values that can be told from any other by looking at them. */

export const VALUE_BYTES = 16 * 1024;

/** The value of a key after `version` writes: one line of text, repeated. */
export function makeValue(key: number, version: number): Buffer {
  return Buffer.alloc(VALUE_BYTES, `key ${key} version ${version}\n`);
}
