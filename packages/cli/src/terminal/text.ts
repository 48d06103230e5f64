/** Text from processes and images, made safe and short for a terminal. */

// Control characters of both sets, line and paragraph separators, and what reorders text.
const UNPRINTABLE = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu;

/**
 * Replaces what could move the cursor or change the terminal: names of processes and files may hold
 * any byte.
 */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (char) => {
    const code = char.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`;
  });
}

/** Cuts the beginning, because the end of a path tells more. */
export function shortenLeft(text: string, width: number): string {
  const characters = [...text];
  return characters.length <= width
    ? text
    : `…${characters.slice(characters.length - width + 1).join('')}`;
}

/** Cuts the end. */
export function shortenRight(text: string, width: number): string {
  const characters = [...text];
  return characters.length <= width ? text : `${characters.slice(0, width - 1).join('')}…`;
}

/** `1 page`, `2 pages`. */
export function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0');
}
