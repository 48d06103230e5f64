/** Bytes that an image leaves to the file they were mapped from. */

import type { BigIntStats } from 'node:fs';
import { constants, type FileHandle, open, stat } from 'node:fs/promises';
import type { NativeFile } from '@sluice/native';
import { fromNative, SluiceError } from '../errors.js';
import { readUpTo } from './image_file.js';

/**
 * Fills `target` from `offset` of the file on, and leaves it as it is after the file's end.
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
    await readUpTo(handle, target, offset);
    checkUnchanged(noted, await handle.stat({ bigint: true }));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      const message = `${path} is gone, and with it bytes that the image leaves to it`;
      throw new SluiceError('ERR_SLUICE_FILE_CHANGED', message, { file: path, offset, cause });
    }
    throw fromNative(cause, { file: path, offset });
  } finally {
    await handle?.close();
  }
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
