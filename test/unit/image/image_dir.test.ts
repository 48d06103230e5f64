import { mkdir, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createImageDir } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import { errorOf, temporaryDir, writeSmallImage } from './support.js';

describe('createImageDir()', () => {
  test('creates a private directory', async () => {
    const dir = join(await temporaryDir(), 'image');
    expect(await createImageDir(dir)).toMatchObject({ created: true });
    expect((await stat(dir)).mode & 0o777).toBe(0o700);
  });

  test('takes an empty one', async () => {
    const dir = await temporaryDir();
    expect(await createImageDir(dir)).toMatchObject({ created: false });
  });

  test('refuses one with anything in it, and leaves it alone', async () => {
    const dir = await temporaryDir();
    await writeFile(join(dir, '.hidden'), '');
    const error = await errorOf(createImageDir(dir));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_EXISTS', file: dir });
    expect(await readdir(dir)).toEqual(['.hidden']);
  });

  test('refuses a file, a missing parent, a dangling link and no name', async () => {
    const dir = await temporaryDir();
    const file = join(dir, 'file');
    await writeFile(file, '');
    await symlink('nowhere', join(dir, 'dangling'));
    const code = 'ERR_SLUICE_OUTPUT_NOT_WRITABLE';
    expect(await errorOf(createImageDir(file))).toMatchObject({ code, file });
    expect(await errorOf(createImageDir(join(file, 'x')))).toMatchObject({
      code,
      syscall: 'mkdir',
    });
    expect(await errorOf(createImageDir(join(dir, 'a', 'b')))).toMatchObject({ code });
    expect(await errorOf(createImageDir(join(dir, 'dangling')))).toMatchObject({ code });
    expect(await errorOf(createImageDir(''))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  test('refuses a place where nothing can be created', async () => {
    const error = await errorOf(createImageDir('/proc/image'));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_NOT_WRITABLE' });
  });
});

describe('discard()', () => {
  test('removes the image and a directory that was created', async () => {
    const parent = await temporaryDir();
    const { discard } = await createImageDir(join(parent, 'image'));
    await writeSmallImage(join(parent, 'image'));
    await writeFile(join(parent, 'image', 'manifest.msgpack.tmp'), '');
    await discard();
    expect(await readdir(parent)).toEqual([]);
    await discard();
  });

  test('keeps a directory that was there', async () => {
    const dir = await temporaryDir();
    const { discard } = await createImageDir(dir);
    await writeSmallImage(dir);
    await discard();
    expect(await readdir(dir)).toEqual([]);
  });

  test('keeps what is not of an image', async () => {
    const dir = join(await temporaryDir(), 'image');
    const { discard } = await createImageDir(dir);
    await writeSmallImage(dir);
    const others = ['notes', 'pages-x.tbl', 'shard-1.img', 'shard-0000.img.bak'];
    for (const name of others) await writeFile(join(dir, name), '');
    await mkdir(join(dir, 'sub'));
    await discard();
    expect((await readdir(dir)).sort()).toEqual([...others, 'sub'].sort());
  });
});
