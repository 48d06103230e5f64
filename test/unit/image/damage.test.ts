/** Whatever is cut off or changed in any file of an image, it is noticed and said where. */
import { open as openFile, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openImage } from '@sluice/core/image';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  errorOf,
  open,
  SMALL_PID,
  temporaryDir,
  useSmallImage,
  writeSmallImage,
} from './support.js';

const DAMAGE = /^ERR_SLUICE_IMAGE_(CORRUPT|VERSION)$/;

async function expectDamage(dir: string, file: string, what: string): Promise<number> {
  const error = await errorOf(useSmallImage(dir)).catch(() => {
    throw new Error(`${what} was not noticed`);
  });
  expect(error.code, `${what}: ${error.stack}`).toMatch(DAMAGE);
  expect(error.file, what).toBe(join(dir, file));
  expect(typeof error.offset, what).toBe('number');
  return error.offset ?? -1;
}

test('a page table is not looked at before its checksum is right', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  const path = join(dir, 'pages-77.tbl');
  await writeFile(path, (await readFile(path)).fill(0xff));
  const error = await errorOf(open(dir));
  expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file: path, offset: 0 });
  expect(error.message).toContain('checksum');
});

async function files(dir: string): Promise<[string, Buffer][]> {
  const names = (await readdir(dir)).sort();
  return Promise.all(
    names.map(async (name): Promise<[string, Buffer]> => [name, await readFile(join(dir, name))]),
  );
}

/** Every position of a small file, and a sample of those of a large one. */
function positions(bytes: number): number[] {
  if (bytes < 4000) return Array.from({ length: bytes }, (_, i) => i);
  const sample = fc.sample(fc.nat(bytes - 1), { numRuns: 100, seed: bytes });
  return [0, 1, 4095, bytes - 4096, bytes - 1, ...sample];
}

test('every truncation is found, with the offset where the file ends', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  for (const [file, bytes] of await files(dir)) {
    for (const length of positions(bytes.length)) {
      await truncate(join(dir, file), length);
      const offset = await expectDamage(dir, file, `${file} cut to ${length}`);
      expect(offset).toBe(length);
      await writeFile(join(dir, file), bytes);
    }
  }
  await useSmallImage(dir);
});

test('bytes after the end of any file are found', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  for (const [file, bytes] of await files(dir)) {
    await writeFile(join(dir, file), Buffer.concat([bytes, Buffer.of(0)]));
    expect(await expectDamage(dir, file, `${file} made longer`)).toBe(bytes.length);
    await writeFile(join(dir, file), bytes);
  }
});

test('every changed byte of manifest and page table is found', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  for (const [file, bytes] of await files(dir)) {
    if (file.endsWith('.img')) continue;
    for (let at = 0; at < bytes.length; at += 1) {
      // Each bit alone in turn, and all of them.
      for (const mask of [1 << (at % 8), 0xff]) {
        const changed = Buffer.from(bytes);
        changed[at] = (bytes[at] ?? 0) ^ mask;
        await writeFile(join(dir, file), changed);
        await expectDamage(dir, file, `${file} changed at ${at} by ${mask}`);
      }
    }
    await writeFile(join(dir, file), bytes);
  }
  await useSmallImage(dir);
});

test('every changed byte of a shard is found by verify, and named by its piece', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  // With the fast checksum: all of the image is read 16,000 times.
  await using image = await openImage(dir);
  for (const [file, bytes] of await files(dir)) {
    if (!file.endsWith('.img')) continue;
    await using handle = await openFile(join(dir, file), 'r+');
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Uint8Array.of((bytes[at] ?? 0) ^ (1 << (at % 8)));
      await handle.write(changed, 0, 1, at);
      const error = await errorOf(image.verify());
      expect(error).toMatchObject({
        code: 'ERR_SLUICE_IMAGE_CORRUPT',
        file: join(dir, file),
        offset: at - (at % 8192),
      });
      await handle.write(bytes, at, 1, at);
    }
  }
  expect(await image.verify()).toMatchObject({ pieces: 3 });
});

test('any change of any bytes is found', async () => {
  const dir = await temporaryDir();
  await writeSmallImage(dir);
  const whole = await files(dir);
  const change = fc.record({
    file: fc.nat(whole.length - 1),
    at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }),
  });
  await fc.assert(
    fc.asyncProperty(change, async ({ file, at, bytes }) => {
      const [name, content] = whole[file] ?? ['', Buffer.of()];
      const changed = Buffer.from(content);
      changed.set(
        bytes.subarray(0, content.length),
        Math.floor(at * Math.max(1, content.length - 40)),
      );
      fc.pre(!changed.equals(content));
      await writeFile(join(dir, name), changed);
      await expectDamage(dir, name, name);
      await writeFile(join(dir, name), content);
    }),
    { numRuns: 300 },
  );
});

describe('read()', () => {
  test('hands out no byte of a damaged piece, and reads the others', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    const path = join(dir, 'shard-0000.img');
    const bytes = await readFile(path);
    // In the page that no record points to: the piece is damaged all the same.
    bytes[0] = (bytes[0] ?? 0) ^ 1;
    await writeFile(path, bytes);
    await using image = await open(dir);
    const [first, second] = [...image.runs(SMALL_PID)];
    const error = await errorOf(image.read(SMALL_PID, first?.address ?? 0n, 1));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_CORRUPT', file: path, offset: 0 });
    expect(await image.read(SMALL_PID, second?.address ?? 0n, 10)).toHaveLength(10);
    await writeFile(path, bytes.fill((bytes[0] ?? 0) ^ 1, 0, 1));
    expect(await image.read(SMALL_PID, first?.address ?? 0n, 10)).toHaveLength(10);
  });

  test.each(['crc32c', 'none'] as const)(
    'finds a shard cut after opening (%s)',
    async (checksum) => {
      const dir = await temporaryDir();
      await writeSmallImage(dir, { checksum });
      await using image = await open(dir);
      const path = join(dir, 'shard-0000.img');
      await truncate(path, 5000);
      const [first] = [...image.runs(SMALL_PID)];
      const corrupt = { code: 'ERR_SLUICE_IMAGE_CORRUPT', file: path, offset: 5000 };
      const read = image.read(SMALL_PID, first?.address ?? 0n, 8192);
      expect(await errorOf(read)).toMatchObject(corrupt);
      expect(await errorOf(image.verify())).toMatchObject(corrupt);
    },
  );
});
