import { mkdir, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createImageDir, createRoundDir } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import { writeSmallChain } from './chain_support.js';
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

  test('removes the rounds of a session', async () => {
    const parent = await temporaryDir();
    const dir = join(parent, 'image');
    const { discard } = await createImageDir(dir);
    await writeSmallChain(dir);
    await createRoundDir(dir, 9999);
    await discard();
    expect(await readdir(parent)).toEqual([]);
  });

  test('keeps in rounds what is not of an image, and follows no links', async () => {
    const dir = join(await temporaryDir(), 'image');
    const { discard } = await createImageDir(dir);
    await writeSmallChain(dir);
    await writeFile(join(dir, 'round-0001', 'notes'), '');
    const elsewhere = await temporaryDir();
    await writeSmallImage(elsewhere);
    await symlink(elsewhere, join(dir, 'round-0003'));
    await symlink(elsewhere, join(dir, 'round-0002', 'round-0001'));
    await mkdir(join(dir, 'round-4'));
    // A directory in the place of a round's round is no round of this session.
    await mkdir(join(dir, 'round-0001', 'round-0001'));
    await writeFile(join(dir, 'round-0001', 'round-0001', 'shard-0000.img'), '');
    await discard();
    const left = (...names: string[]) => readdir(join(dir, ...names)).then((found) => found.sort());
    expect(await left()).toEqual(['round-0001', 'round-0002', 'round-0003', 'round-4']);
    expect(await left('round-0001')).toEqual(['notes', 'round-0001']);
    expect(await left('round-0001', 'round-0001')).toEqual(['shard-0000.img']);
    expect(await left('round-0002')).toEqual(['round-0001']);
    expect(await readdir(elsewhere)).toHaveLength(4);
  });
});

describe('createRoundDir()', () => {
  test('creates a private directory, which can be discarded alone', async () => {
    const dir = await temporaryDir();
    const round = await createRoundDir(dir, 7);
    expect(round).toMatchObject({ dir: join(dir, 'round-0007'), created: true });
    expect((await stat(round.dir)).mode & 0o777).toBe(0o700);
    await writeSmallImage(round.dir);
    await round.discard();
    expect(await readdir(dir)).toEqual([]);
  });

  test('refuses a name that is taken, a number that is none, and a session that is not there', async () => {
    const dir = await temporaryDir();
    await createRoundDir(dir, 1);
    const taken = { code: 'ERR_SLUICE_OUTPUT_EXISTS', file: join(dir, 'round-0001') };
    expect(await errorOf(createRoundDir(dir, 1))).toMatchObject(taken);
    await symlink(await temporaryDir(), join(dir, 'round-0002'));
    expect(await errorOf(createRoundDir(dir, 2))).toMatchObject({ code: taken.code });
    for (const round of [0, -1, 1.5, 10_000, Number.NaN]) {
      const error = await errorOf(createRoundDir(dir, round));
      expect(error).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    }
    const gone = await errorOf(createRoundDir(join(dir, 'gone'), 1));
    expect(gone).toMatchObject({ code: 'ERR_SLUICE_OUTPUT_NOT_WRITABLE', syscall: 'mkdir' });
  });
});
