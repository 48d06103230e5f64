/**
 * The file of a core, 64-bit and little-endian:
 *
 *     ELF header | program headers | (section header) | notes | bytes of the segments, page after page
 *
 * or, if the segments had their places before it was known what they are:
 *
 *     ELF header | bytes of the segments | program headers | (section header) | notes
 *
 * The section header is there only if the number of program headers does not fit into the ELF header.
 */
import { PAGE_BYTES } from '../image/layout.js';
import { MACHINE } from './arch_x86_64.js';
import type { CoreSegment } from './segments.js';

const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const SECTION_HEADER_BYTES = 64;

/** In place of a number of program headers: it is in `sh_info` of section header 0. */
const PN_XNUM = 0xffff;
const ET_CORE = 4;
const PT_LOAD = 1;
const PT_NOTE = 4;
const NOTE_ALIGNMENT = 4;

/** ELF64, little-endian, version 1, no special ABI. */
const IDENT = Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 2, 1, 1);
const E_TYPE = 16;

/** Where things are in a core, in bytes. */
export interface CoreLayout {
  /** All before the bytes of the first segment. */
  head: Uint8Array;
  /** Of each segment. */
  offsets: number[];
  /** Of the whole file. */
  bytes: number;
}

/** A segment that has its place in the file. */
export interface PlacedSegment extends CoreSegment {
  /** Of its first byte. */
  offset: number;
}

/** The two parts of a core beside the bytes of its segments. */
export interface CoreEnds {
  /** For the start of the file. */
  header: Uint8Array;
  /** Program headers, section header, notes. */
  tables: Uint8Array;
}

export function layOut(segments: readonly CoreSegment[], notes: readonly Uint8Array[]): CoreLayout {
  const headBytes = HEADER_BYTES + tablesBytes(segments.length, notes);
  let at = Math.ceil(headBytes / PAGE_BYTES) * PAGE_BYTES;
  const head = new Uint8Array(at);
  const placed = segments.map((segment) => {
    const offset = at;
    at += Number(segment.storedEnd - segment.start);
    return { ...segment, offset };
  });
  const { header, tables } = endsOf(placed, notes, HEADER_BYTES);
  head.set(header);
  head.set(tables, HEADER_BYTES);
  return { head, offsets: placed.map(({ offset }) => offset), bytes: at };
}

/** @param tablesStart Where the tables will be, in bytes into the file. */
export function endsOf(
  segments: readonly PlacedSegment[],
  notes: readonly Uint8Array[],
  tablesStart: number,
): CoreEnds {
  const programHeaders = segments.length + 1;
  const isExtended = programHeaders >= PN_XNUM;
  const tables = new Uint8Array(tablesBytes(segments.length, notes));
  const view = new DataView(tables.buffer);
  const sectionHeader = programHeaders * PROGRAM_HEADER_BYTES;
  let note = sectionHeader + (isExtended ? SECTION_HEADER_BYTES : 0);
  writeProgramHeader(view, 0, {
    type: PT_NOTE,
    flags: 0,
    offset: tablesStart + note,
    address: 0n,
    fileBytes: BigInt(tables.length - note),
    memoryBytes: 0n,
    alignment: NOTE_ALIGNMENT,
  });
  segments.forEach(({ start, end, storedEnd, protection, offset }, i) => {
    writeProgramHeader(view, i + 1, {
      type: PT_LOAD,
      flags: flagsOf(protection),
      offset,
      address: start,
      fileBytes: storedEnd - start,
      memoryBytes: end - start,
      alignment: PAGE_BYTES,
    });
  });
  if (isExtended) {
    // Section header 0: sh_size is the number of section headers, sh_info that of program headers.
    view.setBigUint64(sectionHeader + 32, 1n, true);
    view.setUint32(sectionHeader + 44, programHeaders, true);
  }
  for (const bytes of notes) {
    tables.set(bytes, note);
    note += bytes.length;
  }
  const header = new Uint8Array(HEADER_BYTES);
  const sections = isExtended ? tablesStart + sectionHeader : 0;
  writeHeader(new DataView(header.buffer), programHeaders, tablesStart, sections);
  return { header, tables };
}

function tablesBytes(segments: number, notes: readonly Uint8Array[]): number {
  const programHeaders = segments + 1;
  const sectionHeader = programHeaders >= PN_XNUM ? SECTION_HEADER_BYTES : 0;
  const notesBytes = notes.reduce((sum, { length }) => sum + length, 0);
  return programHeaders * PROGRAM_HEADER_BYTES + sectionHeader + notesBytes;
}

function writeHeader(
  view: DataView,
  programHeaders: number,
  tablesStart: number,
  sectionHeader: number,
): void {
  new Uint8Array(view.buffer).set(IDENT);
  const isExtended = sectionHeader !== 0;
  view.setUint16(E_TYPE, ET_CORE, true);
  view.setUint16(18, MACHINE, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(32, BigInt(tablesStart), true);
  view.setBigUint64(40, BigInt(sectionHeader), true);
  view.setUint16(52, HEADER_BYTES, true);
  view.setUint16(54, PROGRAM_HEADER_BYTES, true);
  view.setUint16(56, isExtended ? PN_XNUM : programHeaders, true);
  view.setUint16(58, isExtended ? SECTION_HEADER_BYTES : 0, true);
  view.setUint16(60, isExtended ? 1 : 0, true);
}

interface ProgramHeader {
  type: number;
  flags: number;
  offset: number;
  address: bigint;
  fileBytes: bigint;
  memoryBytes: bigint;
  alignment: number;
}

function writeProgramHeader(view: DataView, index: number, header: ProgramHeader): void {
  const at = index * PROGRAM_HEADER_BYTES;
  view.setUint32(at, header.type, true);
  view.setUint32(at + 4, header.flags, true);
  view.setBigUint64(at + 8, BigInt(header.offset), true);
  view.setBigUint64(at + 16, header.address, true);
  // p_paddr at 24 means nothing here.
  view.setBigUint64(at + 32, header.fileBytes, true);
  view.setBigUint64(at + 40, header.memoryBytes, true);
  view.setBigUint64(at + 48, BigInt(header.alignment), true);
}

function flagsOf(protection: string): number {
  return [...'xwr'].reduce((sum, each, bit) => sum + (protection.includes(each) ? 1 << bit : 0), 0);
}
