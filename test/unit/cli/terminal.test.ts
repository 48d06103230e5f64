import type { DumpProgress } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { progressLines } from '../../../packages/cli/dist/terminal/progress.js';
import { pairs, table } from '../../../packages/cli/dist/terminal/table.js';
import {
  count,
  printable,
  shortenLeft,
  shortenRight,
} from '../../../packages/cli/dist/terminal/text.js';
import { mib, mibNumber, ms, rate } from '../../../packages/cli/dist/terminal/units.js';

function widest(text: string): number {
  return Math.max(...text.split('\n').map((line) => [...line].length));
}

describe('printable', () => {
  it.each([
    ['plain text, with ümläuts and 漢字', 'plain text, with ümläuts and 漢字'],
    ['clear\u001b[2Jscreen', 'clear\\x1b[2Jscreen'],
    ['two\nlines\r', 'two\\x0alines\\x0d'],
    ['\u009b31m', '\\x9b31m'],
    ['reversed \u202egnp.exe', 'reversed \\u202egnp.exe'],
    ['\u2028', '\\u2028'],
  ])('makes %j safe', (text, safe) => {
    expect(printable(text)).toBe(safe);
  });
});

describe('shortening', () => {
  it('keeps the end or the beginning, in as many characters as asked for', () => {
    expect(shortenLeft('/usr/lib/libc.so.6', 10)).toBe('…libc.so.6');
    expect(shortenRight('/usr/lib/libc.so.6', 10)).toBe('/usr/lib/…');
    expect(shortenLeft('libc.so.6', 9)).toBe('libc.so.6');
    expect(shortenLeft('ab', 1)).toBe('…');
  });

  it('does not cut characters in two', () => {
    expect(shortenLeft('a😀😀', 2)).toBe('…😀');
  });
});

describe('units', () => {
  it('shows sizes in MiB and times in ms, whatever their magnitude', () => {
    expect(mib(3 * 1024 ** 3)).toBe('3072.0 MiB');
    expect(mibNumber(4096)).toBe('0.004');
    expect(ms(1234)).toBe('1.23 ms');
    expect(ms(212_345)).toBe('212.3 ms');
    expect(rate(1024 ** 3, 500_000)).toBe('2048 MiB/s');
    expect(rate(1024 ** 2, 4_000_000)).toBe('0.3 MiB/s');
  });

  it('knows no rate without a time', () => {
    expect(rate(4096, 0)).toBeUndefined();
  });

  it('counts', () => {
    expect([0, 1, 2].map((number) => count(number, 'page'))).toEqual([
      '0 pages',
      '1 page',
      '2 pages',
    ]);
  });
});

describe('table', () => {
  const columns = [
    { head: 'Name' },
    { head: 'MiB', align: 'right' as const },
    { head: 'What', narrow: 'shorten' as const },
    { head: 'Why', narrow: 'wrap' as const },
  ];
  const rows = [
    ['first', '1.0', '/a/very/long/path/to/some/library.so', 'a reason that takes a few words'],
    ['second', '12.0', '', ''],
  ];

  it('is as wide as it takes where there is no terminal', () => {
    expect(table(columns, rows, undefined)).toBe(
      `${[
        'Name     MiB  What                                  Why',
        'first    1.0  /a/very/long/path/to/some/library.so  a reason that takes a few words',
        'second  12.0',
      ].join('\n')}\n`,
    );
  });

  it.each([40, 50, 64, 80, 200])('fits %i columns and loses no row', (width) => {
    const text = table(columns, rows, width);
    expect(widest(text)).toBeLessThanOrEqual(width);
    expect(text).toMatch(/^first/m);
    expect(text).toMatch(/^second/m);
    expect(text.replace(/\s+/g, ' ')).toContain('reason');
  });

  it('keeps the end of a path', () => {
    expect(table(columns, rows, 60)).toMatch(/…\S*library\.so/);
  });

  it('replaces control characters', () => {
    expect(table([{ head: 'A' }], [['\u001b[31m']], undefined)).toBe('A\n\\x1b[31m\n');
  });

  it('has only its head if there are no rows', () => {
    expect(table([{ head: 'A' }, { head: 'B' }], [], 80)).toBe('A  B\n');
  });
});

describe('pairs', () => {
  it('aligns values', () => {
    expect(
      pairs([
        ['a', '1'],
        ['long', 'two\n'],
      ]),
    ).toBe('  a     1\n  long  two\\x0a\n');
  });
});

describe('progressLines', () => {
  async function linesOf(updates: readonly Partial<DumpProgress>[]): Promise<string[]> {
    async function* run(): AsyncGenerator<DumpProgress> {
      for (const update of updates) {
        yield {
          phase: 'attach',
          pagesExpected: 0,
          round: null,
          pagesCaptured: 0,
          bytesDrained: 0,
          elapsedMs: 0,
          ...update,
        };
      }
    }
    const lines: string[] = [];
    for await (const line of progressLines(run())) lines.push(line);
    return lines;
  }

  it('says each step once', async () => {
    expect(
      await linesOf([
        { phase: 'attach', elapsedMs: 1 },
        { phase: 'attach', elapsedMs: 101 },
        { phase: 'open', elapsedMs: 202 },
        { phase: 'seal', elapsedMs: 1312, bytesDrained: 5 * 1024 * 1024 },
      ]),
    ).toEqual([
      '   0.0 s  attaching to the process',
      '   0.2 s  creating the shards',
      '   1.3 s  sealing the shards, 5.0 MiB written',
    ]);
  });
});
