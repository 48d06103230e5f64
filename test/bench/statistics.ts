/** Runs to figures. */

/** Several runs of one thing. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  return { median: medianOf(values), min: Math.min(...values), max: Math.max(...values) };
}

/** The spread of `value` over the runs. */
export function spreadBy<Run>(runs: readonly Run[], value: (run: Run) => number): Spread {
  return spreadOf(runs.map(value));
}

export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = Math.floor(sorted.length / 2);
  const lower = Math.ceil(sorted.length / 2) - 1;
  return (at(sorted, lower) + at(sorted, upper)) / 2;
}

/**
 * One thing in proportion to another, round by round: what slows a whole round down, slows down both
 * and is not in the ratio.
 */
export function ratioOf(values: readonly number[], others: readonly number[]): Spread {
  return spreadOf(values.map((value, round) => value / at(others, round)));
}

/** `cases`, run in turn. Every other round goes backwards, so that no case is always the first. */
export async function interleave<Case, Run>(
  rounds: number,
  cases: readonly Case[],
  run: (each: Case, round: number) => Promise<Run>,
): Promise<Map<Case, Run[]>> {
  const runs = new Map<Case, Run[]>(cases.map((each) => [each, []]));
  for (let round = 0; round < rounds; round++) {
    for (const each of round % 2 === 0 ? cases : [...cases].reverse()) {
      runs.get(each)?.push(await run(each, round));
    }
  }
  return runs;
}

/** An element that is there. */
export function at<Value>(values: readonly Value[], index: number): Value {
  const value = values.at(index);
  if (value === undefined) throw new RangeError(`No element ${index} of ${values.length}`);
  return value;
}

/** A value of a map that is there. */
export function of<Key, Value>(values: ReadonlyMap<Key, Value>, key: Key): Value {
  const value = values.get(key);
  if (value === undefined) throw new RangeError(`Nothing for ${String(key)}`);
  return value;
}
