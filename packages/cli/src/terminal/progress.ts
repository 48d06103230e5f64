/** Shows on a terminal how far a dump is; anywhere else it is silent. */
import type { DumpPhase, DumpProgress, DumpResult, DumpRun, RoundProgress } from '@sluice/core';
import { writeErr } from './output.js';
import { count } from './text.js';
import { mib, ms } from './units.js';

const WORDS: Record<DumpPhase, string> = {
  attach: 'attaching to the process',
  open: 'creating the shards',
  capture: 'capturing',
  seal: 'sealing the shards',
  publish: 'publishing the image',
};

/** Waits for a dump, and tells about it meanwhile if standard error is a terminal. */
export async function withProgress(run: DumpRun): Promise<DumpResult> {
  if (process.stderr.isTTY) {
    for await (const line of progressLines(run)) writeErr(`${line}\n`);
  }
  return run;
}

/** A line for each round, and for each other step that lasts long enough to be seen. */
export async function* progressLines(run: AsyncIterable<DumpProgress>): AsyncGenerator<string> {
  let shown: DumpPhase | undefined;
  let round = 0;
  for await (const progress of run) {
    if (progress.round !== null && progress.round.number !== round) {
      round = progress.round.number;
      shown = 'capture';
      yield `${seconds(progress)}  ${roundText(progress.round)}`;
    }
    const { phase } = progress;
    // Rounds tell about themselves.
    if (phase === shown || (phase === 'capture' && round > 0)) continue;
    shown = phase;
    yield lineOf(progress);
  }
}

function roundText({
  number,
  kind,
  pages,
  pagesPerSecond,
  predictedFreezeMs,
}: RoundProgress): string {
  const what = kind === 'live' ? `round ${number}` : 'freeze';
  const changed =
    pagesPerSecond > 0 ? `, ${Math.round(pagesPerSecond)} pages/s are written to` : '';
  const freeze =
    predictedFreezeMs > 0 && number > 1
      ? `; a freeze now: about ${ms(predictedFreezeMs * 1000)}`
      : '';
  return `${what}: ${count(pages, 'page')} to take${changed}${freeze}`;
}

function lineOf(progress: DumpProgress): string {
  const { phase, bytesDrained } = progress;
  const written = bytesDrained > 0 ? `, ${mib(bytesDrained)} written` : '';
  return `${seconds(progress)}  ${WORDS[phase]}${written}`;
}

function seconds({ elapsedMs }: DumpProgress): string {
  return `${(elapsedMs / 1000).toFixed(1).padStart(6)} s`;
}
