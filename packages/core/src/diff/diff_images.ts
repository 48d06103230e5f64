/** Which pages differ between two images. */
import { SluiceError, throwIfAborted } from '../errors.js';
import type { ManifestProcess, ManifestVma } from '../image/manifest.js';
import { addressOf, Mappings } from '../image/mappings.js';
import { openImage } from '../image/open_image.js';
import { type PageSpan, spanOf, union } from '../image/page_spans.js';
import { Image } from '../image/reader.js';
import { readPages } from './read_pages.js';

/** Read of each image at once. */
const BLOCK_PAGES = 256;

/** For `diffImages`. */
export interface DiffOptions {
  /** Only this process, by its pid in either image. Default: all of them. */
  pid?: number | undefined;
  /** Ends it: it rejects with `AbortError`. */
  signal?: AbortSignal | undefined;
}

/** What differs between the images A and B. */
export interface DiffResult {
  /** Whether nothing does. */
  equal: boolean;
  processes: DiffProcess[];
}

/** Counts of pages. */
export interface DiffCounts {
  /** Whose bytes differ. */
  pages_differing: number;
  /** Stored in A, and not to be had of B: not mapped there, left out, or left to a file that changed. */
  pages_only_in_a: number;
  pages_only_in_b: number;
}

export interface DiffProcess extends DiffCounts {
  /** In A; null if A does not have the process. */
  pid_a: number | null;
  pid_b: number | null;
  /** Of all pages that either image stores. */
  pages_compared: number;
  /** Mappings with pages that differ, in the order of those. */
  vmas: DiffVma[];
}

/** A mapping of A, or of B where A has none. */
export interface DiffVma extends DiffCounts {
  start: bigint;
  end: bigint;
  kind: string;
  path: string;
  /** Address of the first page that differs or is only in one. */
  first: bigint;
}

/**
 * Compares all pages that either image stores. A page that an image does not store reads as it would
 * from that image: as zeros, or from the file. Processes are the same if their pids are, or else their
 * pids in their own pid namespaces, which are all that CRIU's images have.
 *
 * @param a An image, or its directory.
 * @param b Another, of any format that `openImage` takes.
 * @throws SluiceError as `openImage` and `Image.read` do for damaged images;
 * `ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE` if neither image has process `pid`, `ERR_SLUICE_OPTION`
 * @throws AbortError
 */
export async function diffImages(
  a: string | Image,
  b: string | Image,
  options: DiffOptions = {},
): Promise<DiffResult> {
  const opened: Image[] = [];
  const open = async (source: string | Image): Promise<Image> => {
    if (source instanceof Image) return source;
    const image = await openImage(source);
    opened.push(image);
    return image;
  };
  try {
    const images = { a: await open(a), b: await open(b) };
    const pairs = pairsOf(images).filter((pair) => isAsked(pair, options.pid));
    if (pairs.length === 0 && options.pid !== undefined) {
      const message = `Neither image holds process ${options.pid}`;
      throw new SluiceError('ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE', message, { pid: options.pid });
    }
    const processes: DiffProcess[] = [];
    for (const pair of pairs) processes.push(await diffProcess(images, pair, options.signal));
    return { equal: processes.every(({ vmas }) => vmas.length === 0), processes };
  } finally {
    await Promise.all(opened.map((image) => image.close()));
  }
}

interface Images {
  a: Image;
  b: Image;
}

interface Pair {
  a: ManifestProcess | undefined;
  b: ManifestProcess | undefined;
}

function pairsOf({ a, b }: Images): Pair[] {
  const rest = new Set(b.processes);
  const take = (matches: (process: ManifestProcess) => boolean) => {
    const found = [...rest].find(matches);
    if (found !== undefined) rest.delete(found);
    return found;
  };
  const pairs: Pair[] = a.processes.map((process) => ({
    a: process,
    b: take(({ pid }) => pid === process.pid),
  }));
  for (const pair of pairs) {
    pair.b ??= take(({ namespacePid }) => namespacePid === pair.a?.namespacePid);
  }
  return [...pairs, ...[...rest].map((process) => ({ a: undefined, b: process }))];
}

function isAsked({ a, b }: Pair, pid: number | undefined): boolean {
  return pid === undefined || a?.pid === pid || b?.pid === pid;
}

async function diffProcess(
  images: Images,
  { a, b }: Pair,
  signal: AbortSignal | undefined,
): Promise<DiffProcess> {
  const spans = union([...storedIn(images.a, a), ...storedIn(images.b, b)]);
  const found = new Findings(a, b);
  let compared = 0;
  for (const { start, end } of spans) {
    for (let page = start; page < end; page += BLOCK_PAGES) {
      throwIfAborted(signal);
      const pages = Math.min(BLOCK_PAGES, end - page);
      const ofA = await readPages(images.a, a?.pid, page, pages);
      const ofB = await readPages(images.b, b?.pid, page, pages);
      for (let i = 0; i < pages; i += 1) found.compare(page + i, ofA[i], ofB[i]);
      compared += pages;
    }
  }
  const sum = (name: keyof DiffCounts) => found.vmas.reduce((all, vma) => all + vma[name], 0);
  return {
    pid_a: a?.pid ?? null,
    pid_b: b?.pid ?? null,
    pages_compared: compared,
    pages_differing: sum('pages_differing'),
    pages_only_in_a: sum('pages_only_in_a'),
    pages_only_in_b: sum('pages_only_in_b'),
    vmas: found.vmas,
  };
}

function storedIn(image: Image, process: ManifestProcess | undefined): PageSpan[] {
  return process === undefined ? [] : Array.from(image.runs(process.pid), spanOf);
}

/** Differences by mapping, of pages that come in ascending order. */
class Findings {
  readonly vmas: DiffVma[] = [];
  readonly #byStart = new Map<bigint, DiffVma>();
  readonly #mappings: readonly Mappings[];

  constructor(a: ManifestProcess | undefined, b: ManifestProcess | undefined) {
    const both = [a, b].filter((process) => process !== undefined);
    this.#mappings = both.map((process) => new Mappings(process));
  }

  compare(page: number, a: Uint8Array | undefined, b: Uint8Array | undefined): void {
    if (a !== undefined && b !== undefined) {
      if (Buffer.compare(a, b) !== 0) this.#at(page).pages_differing += 1;
      return;
    }
    if (a !== undefined) this.#at(page).pages_only_in_a += 1;
    if (b !== undefined) this.#at(page).pages_only_in_b += 1;
  }

  #at(page: number): DiffVma {
    const { start, end, kind, path } = this.#vmaOf(page);
    const known = this.#byStart.get(start);
    if (known?.end === end) return known;
    const counts = { pages_differing: 0, pages_only_in_a: 0, pages_only_in_b: 0 };
    const vma = { start, end, kind, path, first: addressOf(page), ...counts };
    this.vmas.push(vma);
    this.#byStart.set(start, vma);
    return vma;
  }

  #vmaOf(page: number): ManifestVma {
    for (const { vmas, ranges } of this.#mappings) {
      const at = ranges.lastFrom(page);
      const vma = vmas[at];
      if (vma !== undefined && page < (ranges.ends[at] ?? 0)) return vma;
    }
    throw new RangeError(`Page ${page} is stored and in no mapping`);
  }
}
