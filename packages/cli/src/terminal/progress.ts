/** Shows on a terminal how far a dump is; anywhere else it is silent. */
import type { DumpPhase, DumpProgress, DumpResult, DumpRun } from '@sluice/core';
import { writeErr } from './output.js';
import { mib } from './units.js';

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

/** A line for each step that lasts long enough to be seen; it can be that none is. */
export async function* progressLines(run: AsyncIterable<DumpProgress>): AsyncGenerator<string> {
  let shown: DumpPhase | undefined;
  for await (const progress of run) {
    if (progress.phase === shown) continue;
    shown = progress.phase;
    yield lineOf(progress);
  }
}

function lineOf({ phase, bytesDrained, elapsedMs }: DumpProgress): string {
  const written = bytesDrained > 0 ? `, ${mib(bytesDrained)} written` : '';
  return `${(elapsedMs / 1000).toFixed(1).padStart(6)} s  ${WORDS[phase]}${written}`;
}
