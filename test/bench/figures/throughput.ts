/** How near a dump comes to what the disk can do. */
import { type Bench, Skipped } from '../bench.js';
import { ProgramError } from '../processes.js';
import { nameOf, RAW_CONFIGS, type RawConfig, type RawSource, rawWrite } from '../raw_write.js';
import { type Figure, show, showPercent, sizeName, type Verdict } from '../report.js';
import type { DumpAnswer } from '../sample.js';
import { at, interleave, medianOf, of, ratioOf, type Spread, spreadBy } from '../statistics.js';

const LEAST_RATIO = 0.85;
const GIBI = 1024 ** 3;
const US = 1e6;
const MS = 1000;
const NO_DIRECT_IO = 3;
/** How many ways of writing are tried again with larger targets. */
const BEST_CONFIGS: Record<RawSource, number> = { memory: 2, buffer: 1 };

/** A dump or a raw write. */
interface Timing {
  /** With all that makes the bytes durable. */
  wholeUs: number;
  /** Moving the bytes alone. */
  movingUs: number;
}

type Part = keyof Timing;

interface Measured {
  mib: number;
  bytes: number;
  dumps: Timing[];
  results: DumpAnswer['result'][];
  raw: { config: RawConfig; runs: Timing[] }[];
}

export async function throughput(bench: Bench): Promise<Figure> {
  const measured: Measured[] = [];
  let configs = RAW_CONFIGS;
  for (const mib of bench.largeSizes()) {
    const one = await measure(bench, mib, configs);
    measured.push(one);
    configs = (['memory', 'buffer'] as const).flatMap((source) =>
      bestFirst(one, 'wholeUs', source)
        .slice(0, BEST_CONFIGS[source])
        .map(({ config }) => config),
    );
  }
  const compared = measured.flatMap((one) => [
    compare(one, 'wholeUs', 'whole dump'),
    compare(one, 'movingUs', 'capture alone'),
  ]);
  return {
    title:
      'Throughput of a dump under one freeze, without checksums, against raw O_DIRECT writes of as many bytes',
    rows: [
      [
        '',
        'dump, GiB/s',
        'raw write, GiB/s',
        'threads × write',
        'dump / raw',
        'from one buffer, GiB/s',
        'dump / that',
      ],
      ...compared.map(({ row }) => row),
    ],
    verdicts: compared.map(({ verdict }) => verdict),
    notes: [
      'raw write: from memory that is in no cache, as that of the target; from one buffer: from the',
      'cache of the processor, where no dump can have its bytes from',
      ...measured.flatMap(notesOf),
    ],
    data: measured,
  };
}

async function measure(
  bench: Bench,
  mib: number,
  configs: readonly RawConfig[],
): Promise<Measured> {
  return bench.withTarget(mib, async (target) => {
    const dump = () => bench.dump(target, { checksum: 'none', rounds: 0, consistency: 'copy' });
    const { bytes_written: bytes } = (await dump()).result;
    const results: Measured['results'] = [];
    const raw = async (config: RawConfig): Promise<Timing> => {
      const { totalUs, writeUs } = await rawWrite(bench.scratch, bytes, config);
      await bench.settle();
      return { wholeUs: totalUs, movingUs: writeUs };
    };
    const cases = ['dump' as const, ...configs];
    const runs = await interleave(
      bench.options.runs,
      cases,
      async (each, round): Promise<Timing> => {
        const what = each === 'dump' ? 'dump' : `raw write ${nameOf(each)} from ${each.source}`;
        bench.tell(`throughput, ${sizeName(mib)}, run ${round + 1}: ${what}`);
        if (each !== 'dump') return raw(each).catch(asSkipped);
        const { dumpUs, result } = await dump();
        results.push(result);
        return { wholeUs: dumpUs, movingUs: result.memwrite_time };
      },
    );
    return {
      mib,
      bytes,
      dumps: of(runs, 'dump'),
      raw: configs.map((config) => ({ config, runs: of(runs, config) })),
      results,
    };
  });
}

function asSkipped(error: unknown): never {
  if (error instanceof ProgramError && error.status === NO_DIRECT_IO) {
    throw new Skipped('the file system does not take O_DIRECT; choose another with --dir');
  }
  throw error;
}

function bestFirst({ raw }: Measured, part: Part, source: RawSource): Measured['raw'] {
  const median = (runs: Timing[]) => medianOf(runs.map((run) => run[part]));
  return raw
    .filter(({ config }) => config.source === source)
    .sort((a, b) => median(a.runs) - median(b.runs));
}

function compare(
  measured: Measured,
  part: Part,
  name: string,
): { row: string[]; verdict: Verdict } {
  const { mib, bytes, dumps } = measured;
  const best = at(bestFirst(measured, part, 'memory'), 0);
  const cached = at(bestFirst(measured, part, 'buffer'), 0);
  const what = `${name}, ${sizeName(mib)}`;
  const ratioTo = (runs: Timing[]) =>
    ratioOf(
      runs.map((run) => run[part]),
      dumps.map((run) => run[part]),
    );
  const ratio = ratioTo(best.runs);
  const rate = (runs: Timing[]) => show(rateOf(bytes, runs, part), 2);
  return {
    row: [
      what,
      rate(dumps),
      rate(best.runs),
      nameOf(best.config),
      showPercent(ratio),
      rate(cached.runs),
      showPercent(ratioTo(cached.runs)),
    ],
    verdict: {
      what,
      target: `at least ${LEAST_RATIO * 100} % of the raw write`,
      value: showPercent(ratio),
      met: ratio.median >= LEAST_RATIO,
    },
  };
}

/** GiB a second. */
function rateOf(bytes: number, runs: Timing[], part: Part): Spread {
  return spreadBy(runs, (run) => bytes / GIBI / (run[part] / US));
}

function notesOf(measured: Measured): string[] {
  const { mib, bytes, results } = measured;
  const rates = (source: RawSource) =>
    measured.raw
      .filter(({ config }) => config.source === source)
      .map(({ config, runs }) => {
        return `${nameOf(config)} ${rateOf(bytes, runs, 'wholeUs').median.toFixed(2)}`;
      })
      .join(', ');
  return [
    `raw writes of ${sizeName(mib)}, GiB/s: ${rates('memory')}`,
    `raw writes of ${sizeName(mib)} from one buffer, GiB/s: ${rates('buffer')}`,
    timesOf(measured),
    ...(results.every(({ io }) => io === 'direct')
      ? []
      : [`the dump of ${sizeName(mib)} went through the page cache`]),
  ];
}

/** Where the time of a whole dump goes. */
function timesOf({ mib, dumps, results }: Measured): string {
  const ms = (times: number[]) => (medianOf(times) / MS).toFixed(0);
  const freeze = results.map(({ frozen_time }) => frozen_time);
  const attach = results.map(({ attach_time }) => attach_time);
  const sync = results.map(({ sync_time }) => sync_time);
  const rest = dumps.map(
    ({ wholeUs }, run) => wholeUs - at(freeze, run) - at(attach, run) - at(sync, run),
  );
  return (
    `dump of ${sizeName(mib)}, ms: freeze ${ms(freeze)}, attach ${ms(attach)}, sync ${ms(sync)}, ` +
    `the rest ${ms(rest)}`
  );
}
