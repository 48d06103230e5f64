/** How many random cases, and which: the same ones each time, unless they are asked for. */
const RUNS = process.env.SLUICE_FUZZ_RUNS;
const SEED = Number(process.env.SLUICE_FUZZ_SEED ?? 20_261_123);

/**
 * Parameters for `fc.assert`, which prints the seed with a case that fails.
 *
 * @param runs Cases in an ordinary run of the tests; `SLUICE_FUZZ_RUNS` is their number instead.
 */
export function fuzzOf(runs: number): { numRuns: number; seed: number; endOnFailure: boolean } {
  return { numRuns: RUNS === undefined ? runs : Number(RUNS), seed: SEED, endOnFailure: false };
}
