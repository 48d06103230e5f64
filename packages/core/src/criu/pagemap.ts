import { create, isFieldSet, toBinary } from '@bufbuild/protobuf';
import { SluiceError } from '../errors.js';
import { corrupt } from '../image/faults.js';
import { type ImageFile, openRegular } from '../image/image_file.js';
import { PAGE_BYTES } from '../image/layout.js';
import { addressOf, lastAtMost, pageOf } from '../image/mappings.js';
import type { PageSpan } from '../image/page_spans.js';
import { type pagemap_entry, pagemap_entrySchema, pagemap_headSchema } from './images_pb.js';
import { COMMON_MAGIC, PAGEMAP_MAGIC, PE_LAZY, PE_PARENT, PE_PRESENT } from './names.js';
import { decode, frame, readRecords } from './records.js';

const MOST_RECORD_BYTES = 1024 * 1024;
/** Enough for 256 GiB of which every second page is stored. */
const MOST_ENTRIES = 2 ** 25;
const MOST_PAGES = 2 ** 32 - 1;
/** First page after the highest address. */
const PAGES_END = 2 ** 52;
/** Of compressed pages, whose meaning is not settled. */
const COMPRESSION_FIELDS = [6, 7, 8];

/** Adjacent pages, and where they are. */
export interface PagemapEntry extends PageSpan {
  /** `PE_PRESENT`, `PE_PARENT` or `PE_LAZY`: in the pages file, in the parent, or nowhere. */
  where: number;
  /** Of the first page, into the pages file; only with `PE_PRESENT`. */
  offset: number;
}

/** A checked pagemap: ascending entries that do not overlap. */
export class Pagemap {
  readonly path: string;
  /** Number of its pages file. */
  pagesId = 0;
  /** In the pages file. */
  presentPages = 0;
  // Plain lists: there can be millions.
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  readonly #where: number[] = [];
  readonly #offsets: number[] = [];
  /** Of each record in the file. */
  readonly #records: number[] = [];

  private constructor(path: string) {
    this.path = path;
  }

  /** @throws SluiceError `ERR_SLUICE_IMAGE_CORRUPT`, `ERR_SLUICE_IMAGE_VERSION`, `ERR_SLUICE_IO` */
  static async read(path: string): Promise<Pagemap> {
    const file = await openRegular(path);
    if (file === undefined) throw corrupt(path, 0, 'the file is missing');
    const pagemap = new Pagemap(path);
    try {
      await pagemap.#load(file);
    } finally {
      await file.handle.close();
    }
    return pagemap;
  }

  get length(): number {
    return this.#starts.length;
  }

  [Symbol.iterator](): Generator<PagemapEntry, void, undefined> {
    return this.within({ start: 0, end: PAGES_END });
  }

  /** What the entries say of the pages of a span. */
  *within(span: PageSpan): Generator<PagemapEntry, void, undefined> {
    for (let i = Math.max(0, this.#lastFrom(span.start)); i < this.length; i += 1) {
      const first = this.#starts[i] ?? 0;
      if (first >= span.end) return;
      const start = Math.max(first, span.start);
      const end = Math.min(this.#ends[i] ?? 0, span.end);
      if (start >= end) continue;
      const offset = (this.#offsets[i] ?? 0) + (start - first) * PAGE_BYTES;
      yield { start, end, where: this.#where[i] ?? 0, offset };
    }
  }

  /** The error for what is wrong with the entry of a page. */
  fault(page: number, what: string): SluiceError {
    return corrupt(this.path, this.#records[this.#lastFrom(page)] ?? 0, what);
  }

  #lastFrom(page: number): number {
    return lastAtMost(this.length, (i) => this.#starts[i] ?? 0, page);
  }

  async #load(file: ImageFile): Promise<void> {
    let hasHead = false;
    await readRecords(file, MAGICS, MOST_RECORD_BYTES, (payload, offset) => {
      if (hasHead) {
        this.#add(decode(pagemap_entrySchema, payload, file.path, offset, true), offset);
        return;
      }
      this.pagesId = decode(pagemap_headSchema, payload, file.path, offset).pagesId;
      hasHead = true;
    });
    if (!hasHead) throw corrupt(file.path, file.bytes, 'the file ends before its head');
  }

  #add(entry: pagemap_entry, record: number): void {
    const fault = (what: string) => corrupt(this.path, record, what);
    if (this.length === MOST_ENTRIES) throw fault(`more than ${MOST_ENTRIES} entries`);
    const where = this.#whereOf(entry, record);
    const pages = this.#pagesOf(entry, record);
    if (entry.vaddr % BigInt(PAGE_BYTES) !== 0n) throw fault('an address that is not of a page');
    const start = pageOf(entry.vaddr);
    if (start + pages > PAGES_END) throw fault('pages beyond the end of all addresses');
    if (start < (this.#ends.at(-1) ?? 0)) {
      throw fault('an entry that overlaps the one before or is below it');
    }
    this.#starts.push(start);
    this.#ends.push(start + pages);
    this.#where.push(where);
    this.#offsets.push(this.presentPages * PAGE_BYTES);
    this.#records.push(record);
    if (where === PE_PRESENT) this.presentPages += pages;
    if (this.presentPages * PAGE_BYTES > Number.MAX_SAFE_INTEGER) {
      throw fault('more pages than a file can have');
    }
  }

  /** By the rules of CRIU, which had no flags at first. */
  #whereOf(entry: pagemap_entry, record: number): number {
    const hasFlags = isFieldSet(entry, pagemap_entrySchema.field.flags);
    if ((entry.$unknown ?? []).some(({ no }) => COMPRESSION_FIELDS.includes(no))) {
      throw this.#newer('compressed pages');
    }
    if (hasFlags && (entry.flags & ~(PE_PARENT | PE_LAZY | PE_PRESENT)) !== 0) {
      throw this.#newer(`flags ${entry.flags}`);
    }
    const parent = entry.inParent || (entry.flags & PE_PARENT) !== 0;
    const present = hasFlags ? (entry.flags & PE_PRESENT) !== 0 : !parent;
    const what = parent && present ? 'an entry that is both here and in the parent' : undefined;
    if (what !== undefined) throw corrupt(this.path, record, what);
    if (parent) return PE_PARENT;
    if (present) return PE_PRESENT;
    if ((entry.flags & PE_LAZY) !== 0) return PE_LAZY;
    throw corrupt(this.path, record, 'an entry whose pages are nowhere');
  }

  /** CRIU 3 has the count in one field, CRIU 4.2 in the other and zero in the first. */
  #pagesOf(entry: pagemap_entry, record: number): number {
    const compat = entry.compatNrPages;
    const { nrPages } = pagemap_entrySchema.field;
    const pages = isFieldSet(entry, nrPages) ? entry.nrPages : BigInt(compat);
    if (compat !== 0 && pages !== BigInt(compat)) {
      throw corrupt(this.path, record, `an entry of ${pages} pages, or of ${compat}`);
    }
    if (pages === 0n) throw corrupt(this.path, record, 'an entry of no pages');
    if (pages > MOST_PAGES) throw corrupt(this.path, record, `an entry of ${pages} pages`);
    return Number(pages);
  }

  #newer(what: string): SluiceError {
    const message = `${this.path} has ${what}, which this Sluice does not know`;
    return new SluiceError('ERR_SLUICE_IMAGE_VERSION', message, { file: this.path });
  }
}

const MAGICS = [COMMON_MAGIC, PAGEMAP_MAGIC];

/** The start of a pagemap, before its entries. */
export function pagemapHead(pagesId: number): Uint8Array {
  return frame(MAGICS, [toBinary(pagemap_headSchema, create(pagemap_headSchema, { pagesId }))]);
}

/** An entry as it is written: the count is in both fields, for CRIU 3 and for CRIU 4. */
export function pagemapRecord({ start, end }: PageSpan, flags: number): Uint8Array {
  const entry = create(pagemap_entrySchema, {
    vaddr: addressOf(start),
    compatNrPages: end - start,
    flags,
    nrPages: BigInt(end - start),
  });
  return frame([], [toBinary(pagemap_entrySchema, entry)]);
}
