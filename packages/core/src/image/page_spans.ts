/** Ranges of pages, ascending where there are several, and not overlapping. */
import { PAGE_BYTES } from './layout.js';
import { pageOf } from './mappings.js';

/** Adjacent pages, by number. */
export interface PageSpan {
  start: number;
  /** First page after them. */
  end: number;
}

/** Most pages of one span: that many an entry of a pagemap can count. */
const MOST_PAGES = 2 ** 32 - 1;

/** The pages of adjacent addresses. */
export function spanOf({ address, pages }: { address: bigint; pages: number }): PageSpan {
  const start = pageOf(address);
  return { start, end: start + pages };
}

export function bytesOf({ start, end }: PageSpan): number {
  return (end - start) * PAGE_BYTES;
}

/** Makes one of ascending spans that touch. */
export function* joined(spans: Iterable<PageSpan>): Generator<PageSpan, void, undefined> {
  let last: PageSpan | undefined;
  for (const { start, end } of spans) {
    if (last !== undefined && start <= last.end && end - last.start <= MOST_PAGES) {
      last.end = Math.max(last.end, end);
      continue;
    }
    if (last !== undefined) yield last;
    last = { start, end };
  }
  if (last !== undefined) yield last;
}

/** The pages of any of the spans, which may overlap and be in any order. */
export function union(spans: readonly PageSpan[]): PageSpan[] {
  return [...joined([...spans].sort((a, b) => a.start - b.start))];
}

/** The pages of `from` that are not in `others`; both ascending. */
export function* without(
  from: Iterable<PageSpan>,
  others: readonly PageSpan[],
): Generator<PageSpan, void, undefined> {
  let next = 0;
  for (const { start, end } of from) {
    let at = start;
    while ((others[next]?.end ?? end) <= at) next += 1;
    for (let i = next; at < end; i += 1) {
      const other = others[i];
      const stop = Math.min(end, other?.start ?? end);
      if (at < stop) yield { start: at, end: stop };
      at = Math.max(at, other?.end ?? end);
    }
  }
}

/** The parts of `from` that are in one of `others`, each in one of them; both ascending. */
export function* inside(
  from: Iterable<PageSpan>,
  others: readonly PageSpan[],
): Generator<PageSpan, void, undefined> {
  let next = 0;
  for (const { start, end } of from) {
    while ((others[next]?.end ?? end) <= start) next += 1;
    for (let i = next; (others[i]?.start ?? end) < end; i += 1) {
      const other = others[i] as PageSpan;
      yield { start: Math.max(start, other.start), end: Math.min(end, other.end) };
    }
  }
}
