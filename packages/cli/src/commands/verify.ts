import { openImage } from '@sluice/core';
import type { Command } from 'commander';
import { writeOut } from '../terminal/output.js';
import { path } from '../values.js';
import { renderVerified } from '../views/verified.js';

export function addVerify(program: Command): void {
  program
    .command('verify')
    .description('check all checksums of an image; fails with the first damage')
    .argument('<dir>', 'directory of the image', path)
    .action(verify);
}

async function verify(dir: string): Promise<void> {
  await using image = await openImage(dir);
  await writeOut(renderVerified(dir, await image.verify()));
}
