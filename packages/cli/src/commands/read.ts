import { openImage } from '@sluice/core';
import type { Command } from 'commander';
import { writeOut } from '../terminal/output.js';
import { address, byteCount, path, wholeNumber } from '../values.js';

export function addRead(program: Command): void {
  program
    .command('read')
    .description('print bytes of a dumped process, raw, as the process had them')
    .argument('<dir>', 'directory of the image', path)
    .argument('<pid>', 'process in the image', wholeNumber)
    .argument('<address>', 'first byte, in hex with 0x or decimal', address)
    .argument('<length>', 'number of bytes, in hex with 0x or decimal', byteCount)
    .action(read);
}

async function read(dir: string, pid: number, start: bigint, bytes: number): Promise<void> {
  await using image = await openImage(dir);
  for await (const chunk of image.chunks(pid, start, bytes)) await writeOut(chunk);
}
