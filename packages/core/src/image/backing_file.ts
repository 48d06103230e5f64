/** Bytes that an image leaves to the file they were mapped from. */

import type { BigIntStats } from 'node:fs';
import { constants, type FileHandle, open, stat } from 'node:fs/promises';
import type { NativeFile } from '@sluice/native';
import { fromNative, SluiceError } from '../errors.js';
import { readUpTo } from './image_file.js';

/**
 * Fills `target` from `offset` of the file on, with zeros after the file's end.
 *
 * @throws SluiceError `ERR_SLUICE_FILE_CHANGED` if the file is not as it was noted, before or after
 * it was read; `ERR_SLUICE_IO`
 */
export async function readBackingFile(
  noted: NativeFile,
  offset: number,
  target: Uint8Array,
): Promise<void> {
  const { path } = noted;
  let handle: FileHandle | undefined;
  try {
    // Looked at before it is opened, because opening a device can do things.
    checkUnchanged(noted, await stat(path, { bigint: true }));
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    checkUnchanged(noted, await handle.stat({ bigint: true }));
    target.fill(0, await readUpTo(handle, target, offset));
    checkUnchanged(noted, await handle.stat({ bigint: true }));
  } catch (error) {
    throw unreadable(error, path, offset);
  } finally {
    await handle?.close();
  }
}

/**
 * Looks whether a file is as it was noted.
 *
 * @throws SluiceError `ERR_SLUICE_FILE_CHANGED`, `ERR_SLUICE_IO`
 */
export async function checkBackingFile(noted: NativeFile): Promise<void> {
  try {
    checkUnchanged(noted, await stat(noted.path, { bigint: true }));
  } catch (error) {
    throw unreadable(error, noted.path, 0);
  }
}

function unreadable(cause: unknown, path: string, offset: number): Error {
  const { code } = cause as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ENOTDIR') return fromNative(cause, { file: path, offset });
  const message = `${path} is gone, and with it bytes that the image leaves to it`;
  return new SluiceError('ERR_SLUICE_FILE_CHANGED', message, { file: path, offset, cause });
}

function checkUnchanged(noted: NativeFile, is: BigIntStats): void {
  const compared: [string, bigint, bigint][] = [
    ['device', noted.device, is.dev],
    ['inode', noted.inode, is.ino],
    ['size', noted.bytes, is.size],
    ['modification time', noted.modifiedNs, is.mtimeNs],
    ['change time', noted.changedNs, is.ctimeNs],
  ];
  const differing = compared.flatMap(([what, was, now]) =>
    was === now ? [] : [`${what} ${was}, now ${now}`],
  );
  if (!is.isFile()) differing.unshift('not a regular file any more');
  if (differing.length === 0) return;
  throw new SluiceError(
    'ERR_SLUICE_FILE_CHANGED',
    `${noted.path} is not as it was when dumped: ${differing.join('; ')}`,
    { file: noted.path },
  );
}
