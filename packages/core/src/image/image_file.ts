/** Files of an image, none of which is trusted to be what its name says. */
import { constants, type FileHandle, open } from 'node:fs/promises';
import { fromNative } from '../errors.js';
import { corrupt } from './faults.js';

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;

/** An open regular file. */
export interface ImageFile {
  path: string;
  handle: FileHandle;
  bytes: number;
}

/**
 * Opens a file that the manifest names, which must be a regular one of just this size.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IO`
 */
export async function openSized(path: string, bytes: number): Promise<ImageFile> {
  const file = await openRegular(path);
  if (file === undefined) throw corrupt(path, 0, 'the file is missing');
  if (file.bytes !== bytes) {
    await file.handle.close();
    throw wrongSize(path, file.bytes, bytes);
  }
  return file;
}

export function wrongSize(path: string, is: number, should: number): Error {
  return is < should
    ? corrupt(path, is, `the file ends here and should have ${should} bytes`)
    : corrupt(path, should, `the file should end here and has ${is} bytes`);
}

/**
 * Opens a regular file; undefined if there is none of this name.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` for anything but a regular file, `ERR_SLUICE_IO`
 */
export async function openRegular(path: string): Promise<ImageFile | undefined> {
  let handle: FileHandle;
  try {
    // Not to wait for a writer if it is a fifo.
    handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return undefined;
    if (code === 'ELOOP' || code === 'ENXIO') throw corrupt(path, 0, 'not a regular file', error);
    throw fromNative(error, { file: path });
  }
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw corrupt(path, 0, 'not a regular file');
    return { path, handle, bytes: stat.size };
  } catch (error) {
    await handle.close();
    throw fromNative(error, { file: path });
  }
}

/**
 * Fills `target` from `offset` of the file on.
 *
 * @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT` if the file ends before, `ERR_SLUICE_IO`
 */
export async function readExactly(
  { path, handle }: ImageFile,
  target: Uint8Array,
  offset: number,
): Promise<void> {
  const got = await readUpTo(handle, target, offset).catch((error: unknown) => {
    throw fromNative(error, { file: path, offset });
  });
  if (got < target.length) throw corrupt(path, offset + got, 'the file ends here and should not');
}

/** Reads until `target` is full or the file ends; returns the bytes read. */
export async function readUpTo(
  handle: FileHandle,
  target: Uint8Array,
  offset: number,
): Promise<number> {
  let got = 0;
  while (got < target.length) {
    const { bytesRead } = await handle.read(target, got, target.length - got, offset + got);
    if (bytesRead === 0) break;
    got += bytesRead;
  }
  return got;
}
