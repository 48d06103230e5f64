import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_READ_BYTES } from '@sluice/core/image';
import { describe, expect, test } from 'vitest';
import {
  at,
  errorOf,
  open,
  PAGE,
  pageTableOf,
  pattern,
  processOf,
  replaceManifest,
  SMALL_PID,
  SMALL_START,
  temporaryDir,
  vmaOf,
  writeSmallImage,
  writeTestImage,
} from './support.js';

describe('an image that was written', () => {
  test('is read back with all that the manifest says', async () => {
    const dir = await temporaryDir();
    const written = await writeSmallImage(dir);
    await using image = await open(dir);
    expect(image.manifest).toEqual(written);
    expect(image.dir).toBe(dir);
    expect(image.processes).toMatchObject([
      { pid: 77, namespacePid: 7, commandLine: ['target', '', '--flag'], pagesStored: 4 },
    ]);
    expect(image.processes[0]?.vmas[1]).toMatchObject({ end: 0xffff_ffff_ff60_1000n, file: null });
    expect(image.manifest.createdNs).toBe(1_700_000_000_123_456_789n);
  });

  test('may be older than what tells where extended registers are', async () => {
    const dir = await temporaryDir();
    const manifest = structuredClone(await writeSmallImage(dir));
    const state = manifest.processes[0]?.state;
    expect(state?.extendedLayout).toHaveLength(1);
    Reflect.deleteProperty(state as object, 'extendedLayout');
    await replaceManifest(dir, manifest);
    await using image = await open(dir);
    expect(image.processes[0]?.state).toEqual({ ...state, extendedLayout: [] });
  });

  test('keeps numbers of every size and text of every script', async () => {
    const dir = await temporaryDir();
    const file = {
      path: '/tmp/\u{1f600} ü',
      device: 2n ** 64n - 1n,
      inode: 2n ** 63n,
      bytes: 2n ** 63n - 1n,
      modifiedNs: -1n,
      changedNs: 0n,
    };
    const more = { kind: 'private-file', file, offset: 2n ** 64n - 4096n, inode: 5n } as const;
    const vmas = [vmaOf(0n, 1, more)];
    const rounds = [
      { kind: 'final' as const, pagesWritten: 2 ** 33, bytesWritten: 2 ** 45, times: { x: 0.5 } },
    ];
    const written = await writeTestImage({
      dir,
      processes: [processOf({ vmas })],
      more: { rounds },
    });
    await using image = await open(dir);
    expect(image.manifest).toEqual(written);
    expect(image.processes[0]?.vmas[0]?.file).toEqual(file);
  });

  test('notes no file of a name that is no path', async () => {
    const dir = await temporaryDir();
    const path = 'anon_inode:[io_uring]';
    const file = { path, device: 1n, inode: 1n, bytes: 1n, modifiedNs: 1n, changedNs: 1n };
    const vmas = [vmaOf(0n, 1, { kind: 'excluded', leftOut: 'shared', path, file })];
    await writeTestImage({ dir, processes: [processOf({ vmas })] });
    await using image = await open(dir);
    expect(image.processes[0]?.vmas).toMatchObject([{ path, file: null }]);
  });

  test('gives runs, stored bytes, zeros and aliases', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    expect([...image.runs(SMALL_PID)]).toEqual([
      { address: at(0), pages: 2, image: 0, shard: 0, offset: PAGE },
      { address: at(3), pages: 1, image: 0, shard: 1, offset: 0 },
      { address: at(5), pages: 1, image: 0, shard: 0, offset: PAGE },
    ]);
    const expected = Buffer.concat([
      pattern(3 * PAGE, 10).subarray(PAGE),
      Buffer.alloc(PAGE),
      pattern(PAGE, 20),
      Buffer.alloc(PAGE),
      pattern(3 * PAGE, 10).subarray(PAGE, 2 * PAGE),
      Buffer.alloc(PAGE),
    ]);
    const all = await image.read(SMALL_PID, SMALL_START, 7 * PAGE);
    expect(expected.equals(all)).toBe(true);
    const some = await image.read(SMALL_PID, SMALL_START + 4090n, 4 * PAGE);
    expect(expected.subarray(4090, 4090 + 4 * PAGE).equals(some)).toBe(true);
  });

  test.each(['crc32c', 'none'] as const)('is verified with checksum %s', async (checksum) => {
    const dir = await temporaryDir();
    await writeSmallImage(dir, { checksum });
    await using image = await open(dir);
    const pieces = checksum === 'none' ? 0 : 3;
    expect(await image.verify()).toEqual({
      images: 1,
      shards: 2,
      pieces,
      bytes: 4 * PAGE,
      checksum,
    });
    const bytes = await image.read(SMALL_PID, at(3), PAGE);
    expect(Buffer.from(bytes).equals(pattern(PAGE, 20))).toBe(true);
  });

  test('can be read while its directory is already gone', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    await rm(dir, { recursive: true });
    expect(await image.verify()).toMatchObject({ pieces: 3 });
  });

  test('has only private files and no temporary ones', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    const files = (await readdir(dir)).sort();
    expect(files).toEqual(['manifest.msgpack', 'pages-77.tbl', 'shard-0000.img', 'shard-0001.img']);
    for (const file of files) expect((await stat(join(dir, file))).mode & 0o777).toBe(0o600);
  });

  test('has the bytes that the format fixes at its start', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    const bytes = await readFile(join(dir, 'manifest.msgpack'));
    expect(bytes.subarray(0, 16)).toEqual(Buffer.from('\x94\xacsluice-image\x03\xce', 'latin1'));
    expect(bytes[20]).toBe(0xc6);
    expect(bytes.readUInt32BE(21)).toBe(bytes.length - 25);
  });
});

describe('chunks()', () => {
  test('streams what read() reads, in pieces of at most 1 MiB', async () => {
    const dir = await temporaryDir();
    const pages = 700;
    const data = pattern(pages * PAGE, 3);
    const pageTable = pageTableOf([{ address: at(100), pages, shard: 0, offset: 0 }]);
    const vmas = [vmaOf(SMALL_START, 1000)];
    await writeTestImage({ dir, shards: [data], processes: [processOf({ vmas, pageTable })] });
    await using image = await open(dir);
    const sizes: number[] = [];
    const parts: Uint8Array[] = [];
    for await (const part of image.chunks(77, SMALL_START + 5n, 900 * PAGE)) {
      sizes.push(part.length);
      parts.push(part);
    }
    expect(Math.max(...sizes)).toBe(1024 * 1024);
    const whole = Buffer.concat(parts);
    expect(whole.equals(await image.read(77, SMALL_START + 5n, 900 * PAGE))).toBe(true);
    expect(whole.subarray(100 * PAGE - 5, 800 * PAGE - 5).equals(data)).toBe(true);
  });

  test('gives nothing if a byte far behind is not there', async () => {
    const dir = await temporaryDir();
    const leftOut = [{ start: at(999), end: at(1000), reason: 'poisoned' }];
    const vmas = [vmaOf(SMALL_START, 1000)];
    await writeTestImage({ dir, processes: [processOf({ vmas, leftOut })] });
    await using image = await open(dir);
    const first = image.chunks(77, SMALL_START, 1000 * PAGE).next();
    expect(await errorOf(first)).toMatchObject({ code: 'ERR_SLUICE_LEFT_OUT', pid: 77 });
  });

  test('does not make room for a huge range of zeros', async () => {
    const dir = await temporaryDir();
    const vmas = [vmaOf(0x1000n, 2 ** 40)];
    await writeTestImage({ dir, processes: [processOf({ vmas })] });
    await using image = await open(dir);
    for await (const part of image.chunks(77, 0x1000n, 2 ** 50)) {
      expect(part.length).toBe(1024 * 1024);
      break;
    }
  });
});

describe('a read that cannot be', () => {
  test.each([
    ['before the mapping', SMALL_START - 1n, 1, 'ERR_SLUICE_NOT_MAPPED', '0x7effffffffff'],
    ['across the end', at(6), 3 * PAGE, 'ERR_SLUICE_LEFT_OUT', 'poisoned'],
    ['after the mapping', at(8), 1, 'ERR_SLUICE_NOT_MAPPED', '0x7f0000008000'],
    ['of an excluded mapping', 0xffff_ffff_ff60_0000n, 1, 'ERR_SLUICE_LEFT_OUT', 'vsyscall'],
    ['of the last address', 2n ** 64n - 1n, 2, 'ERR_SLUICE_NOT_MAPPED', '0xfffffffffffff000'],
    ['of a negative address', -1n, 1, 'ERR_SLUICE_OPTION', '-1'],
    ['of too high an address', 2n ** 64n, 1, 'ERR_SLUICE_OPTION', '18446744073709551616'],
    ['of a negative length', SMALL_START, -1, 'ERR_SLUICE_OPTION', '-1'],
    ['of half a byte', SMALL_START, 0.5, 'ERR_SLUICE_OPTION', '0.5'],
    ['of NaN bytes', SMALL_START, Number.NaN, 'ERR_SLUICE_OPTION', 'NaN'],
    ['of an unsafe length', SMALL_START, 2 ** 53, 'ERR_SLUICE_OPTION', '9007199254740992'],
  ])('%s is a typed error', async (_, address, bytes, code, said) => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    const error = await errorOf(image.read(SMALL_PID, address, bytes));
    expect(error).toMatchObject({ code });
    if (code !== 'ERR_SLUICE_NOT_MAPPED') expect(error.message).toContain(said);
  });

  test('names the page that is not mapped', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    const error = await errorOf(image.read(SMALL_PID, at(8) + 5n, 1));
    expect(error.message).toContain('0x7f0000008000');
  });

  test('of no bytes gives none, wherever it is', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    expect(await image.read(SMALL_PID, SMALL_START, 0)).toHaveLength(0);
    expect(await image.read(SMALL_PID, 0n, 0)).toHaveLength(0);
    expect((await image.chunks(SMALL_PID, 0n, 0).next()).done).toBe(true);
  });

  test('of another process, of too much at once, or after close', async () => {
    const dir = await temporaryDir();
    const vmas = [vmaOf(0x1000n, 2 ** 30)];
    await writeTestImage({ dir, processes: [processOf({ vmas })] });
    const image = await open(dir);
    expect(await errorOf(image.read(78, 0n, 1))).toMatchObject({
      code: 'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE',
      pid: 78,
    });
    expect(() => image.runs(78)).toThrow(/holds process 77, not 78/);
    const tooMuch = await errorOf(image.read(77, 0x1000n, MAX_READ_BYTES + 1));
    expect(tooMuch).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    await image.close();
    await image.close();
    const closed = await errorOf(image.read(77, 0x1000n, 1));
    expect(closed).toMatchObject({ code: 'ERR_SLUICE_OPTION', message: 'The image was closed' });
    expect(await errorOf(image.verify())).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });
});

describe('verify()', () => {
  test('ends with AbortError on its signal', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await using image = await open(dir);
    const error = await errorOf(image.verify({ signal: AbortSignal.abort('enough') }));
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' });
  });

  test('names the first of many damaged pieces', async () => {
    const dir = await temporaryDir();
    const data = pattern(64 * PAGE, 1);
    await writeTestImage({ dir, shards: [data, data], processes: [processOf()] });
    const path = join(dir, 'shard-0000.img');
    const damaged = await readFile(path);
    for (let at = 20 * PAGE; at < damaged.length; at += PAGE)
      damaged[at + 9] = ~(damaged[at + 9] ?? 0);
    await writeFile(path, damaged);
    await using image = await open(dir);
    expect(await errorOf(image.verify())).toMatchObject({
      code: 'ERR_SLUICE_IMAGE_CORRUPT',
      file: path,
      offset: 20 * PAGE,
    });
  });
});

describe('openImage() refuses', () => {
  test('what is not there, not a directory or has no manifest', async () => {
    const dir = await temporaryDir();
    const gone = join(dir, 'gone');
    expect(await errorOf(open(gone))).toMatchObject({
      code: 'ERR_SLUICE_IMAGE_NOT_FOUND',
      file: gone,
    });
    expect(await errorOf(open(dir))).toMatchObject({ code: 'ERR_SLUICE_IMAGE_UNFINISHED' });
    const file = join(dir, 'file');
    await writeFile(file, '');
    expect(await errorOf(open(file))).toMatchObject({ code: 'ERR_SLUICE_IMAGE_NOT_FOUND' });
    expect(await errorOf(open(''))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    expect(await errorOf(open('a\0b'))).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
  });

  test('another format version', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    const path = join(dir, 'manifest.msgpack');
    const bytes = await readFile(path);
    bytes[14] = 1;
    await writeFile(path, bytes);
    const error = await errorOf(open(dir));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_IMAGE_VERSION', file: path, offset: 14 });
    expect(error.message).toContain('version 1');
  });
});

describe('writeImage() refuses', () => {
  const at = (address: bigint, pages = 1, offset = 0) => ({ address, pages, shard: 0, offset });
  const processWith = (...records: ReturnType<typeof at>[]) =>
    processOf({ vmas: [vmaOf(0x1000n, 4)], pageTable: pageTableOf(records) });

  test.each([
    ['a page table of half a record', processOf({ pageTable: new Uint8Array(36) })],
    ['pages that are not mapped', processWith(at(0x5000n))],
    ['pages beyond their shard', processWith(at(0x1000n, 2))],
    ['a mapping of half a page', processOf({ vmas: [{ ...vmaOf(0x1000n, 1), end: 0x1800n }] })],
    ['a pid of zero', processOf({ pid: 0 })],
  ])('%s, and writes nothing', async (_, process) => {
    const dir = await temporaryDir();
    const error = await errorOf(
      writeTestImage({ dir, shards: [pattern(PAGE, 1)], processes: [process] }),
    );
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPTION' });
    expect(await readdir(dir)).toEqual(['shard-0000.img']);
  });

  test('to write over an image', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    expect(await errorOf(writeSmallImage(dir))).toMatchObject({ code: 'ERR_SLUICE_IO' });
    await using image = await open(dir);
    expect(await image.verify()).toMatchObject({ pieces: 3 });
  });
});

test('left-out ranges are put in order and lose what overlaps', async () => {
  const dir = await temporaryDir();
  const vmas = [vmaOf(0x1000n, 15)];
  const leftOut = [
    { start: 0x9000n, end: 0xb000n, reason: 'd' },
    { start: 0x2000n, end: 0x6000n, reason: 'a' },
    { start: 0x3000n, end: 0x5000n, reason: 'b' },
    { start: 0x5000n, end: 0x8000n, reason: 'c' },
  ];
  await writeTestImage({ dir, processes: [processOf({ vmas, leftOut })] });
  await using image = await open(dir);
  expect(image.processes[0]?.leftOut).toEqual([
    { start: 0x2000n, end: 0x6000n, reason: 'a' },
    { start: 0x6000n, end: 0x8000n, reason: 'c' },
    { start: 0x9000n, end: 0xb000n, reason: 'd' },
  ]);
  expect(await image.read(77, 0x8000n, PAGE)).toEqual(new Uint8Array(PAGE));
  expect((await errorOf(image.read(77, 0x8000n, PAGE + 1))).message).toContain(': d');
});

test('a page table of a million records is opened and searched quickly', async () => {
  const dir = await temporaryDir();
  const entries = 1_000_000;
  const records = Array.from({ length: entries }, (_, i) => ({
    address: SMALL_START + BigInt(i * 2 * PAGE),
    pages: 1,
    shard: 0,
    offset: (i % 2) * PAGE,
  }));
  const vmas = [vmaOf(SMALL_START, 2 * entries)];
  const data = pattern(2 * PAGE, 5);
  // Fast instead of naive: the checksum is not what is measured.
  const crc32c = (bytes: Uint8Array, seed: number) => (seed + bytes.length) >>> 0;
  const processes = [processOf({ vmas, pageTable: pageTableOf(records) })];
  await writeTestImage({ dir, shards: [data], processes, more: { checksum: 'none', crc32c } });
  const { openImage } = await import('@sluice/core/image');
  const start = performance.now();
  await using image = await openImage(dir, { crc32c });
  let runs = 0;
  for (const run of image.runs(77)) runs += run.pages;
  expect(runs).toBe(entries);
  for (let i = 0; i < 10_000; i += 1) {
    const n = (i * 7919) % entries;
    const address = SMALL_START + BigInt(n * 2 * PAGE);
    const [byte] = await image.read(77, address, 1);
    expect(byte).toBe(data[(n % 2) * PAGE]);
  }
  // Far above what it takes, far below what a scan per lookup would take.
  expect(performance.now() - start).toBeLessThan(30_000);
});
