/** Rounds of a dump as directories for CRIU. */
import { join } from 'node:path';
import type { RoundCaptured } from '@sluice/native';
import { rangesOf } from '../image/address_range.js';
import { createRoundDir, type ImageDir, openImage, roundDir } from '../image/index.js';
import { pageOf } from '../image/mappings.js';
import { type PageSpan, spanOf } from '../image/page_spans.js';
import type { Image } from '../image/reader.js';
import type { Captured } from '../session/capture.js';
import { isCriuFile } from './names.js';
import { statsOf, uptimeOf } from './round_facts.js';
import {
  type CriuParent,
  type WriteCriuOptions,
  type WrittenCriu,
  writeCriuDirectory,
} from './write_directory.js';

/**
 * Writes one round. A page counts as that of the parent only as far as it is as it was there: for a live
 * round the session tells that, a final one has it in its page table.
 */
export async function writeCriuRound(
  dir: string,
  image: Image,
  captured: RoundCaptured,
  link: string | undefined,
  how: Pick<WriteCriuOptions, 'adopt' | 'signal'>,
): Promise<WrittenCriu> {
  let parent: CriuParent | undefined;
  if (link !== undefined) {
    const live = image.manifest.consistency === 'live';
    const coverage = image.processes.map(({ pid, namespacePid }): [number, PageSpan[]] => [
      namespacePid,
      live
        ? rangesOf(captured.covered).map(({ start, end }) => ({
            start: pageOf(start),
            end: pageOf(end),
          }))
        : [...inParent(image, pid)],
    ]);
    parent = { link, coverage: new Map(coverage) };
  }
  const { resetUptimeUs } = captured;
  return writeCriuDirectory({
    dir,
    image,
    ownOnly: true,
    parent,
    uptimeMicroseconds: resetUptimeUs > 0 ? BigInt(resetUptimeUs) : uptimeOf(image),
    stats: statsOf(image.manifest.rounds.at(-1)),
    ...how,
  });
}

/** All rounds of a dump: the final one in the directory itself, the others in directories in it. */
export async function writeCriuRounds(
  output: ImageDir,
  { rounds }: Captured,
  signal: AbortSignal,
): Promise<void> {
  for (const [index, { kind, dir, captured }] of rounds.entries()) {
    const live = kind === 'live';
    const { dir: to } = live ? await createRoundDir(output.dir, index + 1, isCriuFile) : output;
    const below = index === 0 ? undefined : roundDir(index);
    await using image = await openImage(dir);
    const link = below === undefined || !live ? below : join('..', below);
    await writeCriuRound(to, image, captured, link, { signal });
  }
}

function* inParent(image: Image, pid: number): Generator<PageSpan> {
  for (const run of image.runs(pid)) if (run.image > 0) yield spanOf(run);
}
