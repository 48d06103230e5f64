/** Pages that an image leaves to the file behind their mapping. */
import { execFileSync } from 'node:child_process';
import {
  appendFile,
  chmod,
  copyFile,
  mkdir,
  rename,
  rm,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { Image } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import {
  errorOf,
  noteFile,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  temporaryDir,
  vmaOf,
  writeTestImage,
} from './support.js';

const START = 0x10_0000n;
const FILE_BYTES = 2 * PAGE + 100;
const CONTENT = pattern(FILE_BYTES, 4);

/**
 * A mapping of four pages of a file from its second page on, of which the first is stored: then come
 * the last bytes of the file, and two pages beyond its end.
 */
async function mappedFile(
  kind: 'private-file' | 'shared-file',
): Promise<{ image: Image; path: string }> {
  const dir = await temporaryDir();
  const path = join(await temporaryDir(), 'mapped');
  await writeFile(path, CONTENT);
  const vmas = [vmaOf(START, 4, { kind, path, offset: BigInt(PAGE), file: await noteFile(path) })];
  const pageTable = pageTableOf([{ address: START, pages: 1, shard: 0, offset: 0 }]);
  const shards = [pattern(PAGE, 8)];
  await writeTestImage({ dir, shards, processes: [processOf({ vmas, pageTable })] });
  return { image: await open(dir), path };
}

describe.each(['private-file', 'shared-file'] as const)('%s', (kind) => {
  test('unchanged: stored page, bytes of the file, zeros up to the end of the page', async () => {
    const { image } = await mappedFile(kind);
    const expected = Buffer.concat([
      pattern(PAGE, 8),
      CONTENT.subarray(2 * PAGE),
      Buffer.alloc(PAGE - 100),
    ]);
    expect(expected.equals(await image.read(77, START, 2 * PAGE))).toBe(true);
    expect(expected.subarray(4000, 4200).equals(await image.read(77, START + 4000n, 200))).toBe(
      true,
    );
    const tail = await image.read(77, START + BigInt(PAGE + 500), 10);
    expect(tail).toEqual(new Uint8Array(10));
    await image.close();
  });

  test('a page beyond the end of the file cannot be had', async () => {
    const { image } = await mappedFile(kind);
    const error = await errorOf(image.read(77, START + BigInt(2 * PAGE), 1));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
    expect(error.message).toContain('beyond the end of the file');
    const across = await errorOf(image.read(77, START, 2 * PAGE + 1));
    expect(across).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
    await image.close();
  });
});

describe('a file that is not as it was', () => {
  test.each<[string, (path: string) => Promise<unknown>, string]>([
    ['longer', (path) => appendFile(path, 'x'), `size ${FILE_BYTES}, now ${FILE_BYTES + 1}`],
    ['shorter', (path) => truncate(path, 10), `size ${FILE_BYTES}, now 10`],
    ['written to', (path) => writeFile(path, CONTENT), 'modification time'],
    ['touched', (path) => utimes(path, 1, 1), 'now 1000000000'],
    ['of another mode', (path) => chmod(path, 0o600), 'change time'],
    [
      'replaced',
      async (path) => {
        await copyFile(path, `${path}.new`);
        await rename(`${path}.new`, path);
      },
      'inode',
    ],
    ['gone', (path) => rm(path), 'is gone'],
    ['gone with its directory', (path) => rm(join(path, '..'), { recursive: true }), 'is gone'],
    [
      'a directory',
      async (path) => {
        await rm(path);
        await mkdir(path);
      },
      'not a regular file',
    ],
    [
      'a fifo',
      async (path) => {
        await rm(path);
        execFileSync('mkfifo', [path]);
      },
      'not a regular file',
    ],
  ])('%s is named, with what differs', async (_, change, said) => {
    const { image, path } = await mappedFile('private-file');
    await change(path);
    const error = await errorOf(image.read(77, START, PAGE + 1));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_FILE_CHANGED', file: path });
    expect(error.message).toContain(path);
    expect(error.message).toContain(said);
    // What is stored does not need the file.
    expect(Buffer.from(await image.read(77, START, PAGE)).equals(pattern(PAGE, 8))).toBe(true);
    await image.verify();
    await image.close();
  });
});

describe('without a record', () => {
  test.each([
    ['private-file', 'could not be identified'],
    ['shared-file', 'could not be identified'],
    ['deleted-file', 'not stored'],
    ['vdso', 'not stored'],
  ] as const)('a page of kind %s and no file cannot be had', async (kind, said) => {
    const dir = await temporaryDir();
    await writeTestImage({ dir, processes: [processOf({ vmas: [vmaOf(START, 1, { kind })] })] });
    await using image = await open(dir);
    const error = await errorOf(image.read(77, START, 1));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT', pid: 77 });
    expect(error.message).toContain(said);
  });

  test('a page of a deleted file is a hole of it, or beyond its end', async () => {
    const dir = await temporaryDir();
    const file = {
      path: '/gone',
      device: 1n,
      inode: 1n,
      bytes: 10n,
      modifiedNs: 1n,
      changedNs: 1n,
    };
    const vmas = [vmaOf(START, 2, { kind: 'deleted-file', file })];
    await writeTestImage({ dir, processes: [processOf({ vmas })] });
    await using image = await open(dir);
    expect(Buffer.from(await image.read(77, START, PAGE))).toEqual(Buffer.alloc(PAGE));
    const beyond = await errorOf(image.read(77, START + BigInt(PAGE), 1));
    expect(beyond.message).toContain('beyond the end of the file');
  });

  test('a page too far into a file for file offsets cannot be had', async () => {
    const dir = await temporaryDir();
    const bytes = 2n ** 63n - 1n;
    const file = { path: '/huge', device: 1n, inode: 1n, bytes, modifiedNs: 1n, changedNs: 1n };
    const vmas = [vmaOf(START, 1, { kind: 'shared-file', file, offset: 2n ** 60n })];
    await writeTestImage({ dir, processes: [processOf({ vmas })] });
    await using image = await open(dir);
    expect(await errorOf(image.read(77, START, 1))).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT' });
  });
});
