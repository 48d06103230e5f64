/** Which mappings a core holds, by the rules that core(5) tells of. */
import { describe, expect, test } from 'vitest';
import { wanted } from '../../../packages/core/dist/core_dump/filter.js';
import { vmaOf } from '../image/support.js';

type Vma = Parameters<typeof wanted>[0];

const ALL = 0x1ff;
const OF_FILE = { path: '/usr/lib/libc.so.6', inode: 7n, kind: 'private-file' } as const;

function what(more: Partial<Vma>, filter: number, isWritten = false) {
  return wanted({ ...vmaOf(0x1000n, 4), file: null, ...more } as Vma, filter, isWritten);
}

/** Bits that make a mapping be dumped whole when they are set alone. */
function bitsOf(more: Partial<Vma>, isWritten = false): number[] {
  return Array.from({ length: 9 }, (_, bit) => bit).filter(
    (bit) => what(more, 1 << bit, isWritten) === 'whole',
  );
}

describe('wanted()', () => {
  test.each<[string, Partial<Vma>, boolean, number[]]>([
    ['anonymous memory that was written', {}, true, [0]],
    ['anonymous memory that was never touched', {}, false, []],
    ['the heap', { path: '[heap]' }, true, [0]],
    ['shared anonymous memory', { shared: true, path: '/dev/zero (deleted)' }, true, [1]],
    ['shared memory that is named by nobody', { shared: true, path: '' }, false, [1]],
    ['shared memory with a name for people', { shared: true, path: '[anon_shmem:x]' }, false, [1]],
    ['a memfd', { shared: true, path: '/memfd:x (deleted)', kind: 'shared-memory' }, true, [1]],
    ['shared memory in /dev/shm', { shared: true, path: '/dev/shm/x' }, true, [3]],
    ['a shared file', { shared: true, path: '/x', kind: 'shared-file' }, false, [3]],
    ['a file that is private', OF_FILE, false, [2]],
    ['a private file that was written to', OF_FILE, true, [0, 2]],
    ['private huge pages', { vmFlags: 'rd wr ht' }, true, [5]],
    ['shared huge pages', { vmFlags: 'rd sh ht', shared: true }, true, [6]],
    ['what the program wants left out', { vmFlags: 'rd wr dd' }, true, []],
    ['huge pages left out', { vmFlags: 'ht dd' }, true, []],
    ['a device', { vmFlags: 'rd io', path: '/dev/x' }, true, []],
    ['time of the kernel', { path: '[vvar]', vmFlags: 'rd io dd' }, false, []],
    ['code of the kernel', { path: '[vsyscall]' }, false, []],
  ])('%s', (_, more, isWritten, bits) => {
    expect(bitsOf(more, isWritten)).toEqual(bits);
    if (bits.length === 0) expect(what(more, ALL, isWritten)).toBe('nothing');
  });

  test('always the vdso', () => {
    expect(what({ kind: 'vdso', path: '[vdso]', vmFlags: 'rd ex dd' }, 0)).toBe('whole');
  });

  test('the begin of files that are not dumped whole', () => {
    expect(what(OF_FILE, 1 << 4)).toBe('elf-header');
    expect(what({ ...OF_FILE, offset: 4096n }, 1 << 4)).toBe('nothing');
    expect(what({ ...OF_FILE, protection: '---' }, 1 << 4)).toBe('nothing');
    expect(what({ ...OF_FILE, shared: true }, 1 << 4)).toBe('nothing');
    expect(what(OF_FILE, (1 << 4) | (1 << 2))).toBe('whole');
    expect(what(OF_FILE, 0x33, true)).toBe('whole');
  });
});
