/** Reads a core with nothing of the product: only what elf(5) and core(5) say. */

export interface Segment {
  type: number;
  flags: number;
  offset: number;
  address: bigint;
  fileBytes: number;
  memoryBytes: bigint;
  alignment: number;
}

export interface Note {
  owner: string;
  type: number;
  bytes: Buffer;
}

export interface Core {
  bytes: Buffer;
  header: { type: number; machine: number; programHeaders: number; sectionHeaders: number };
  segments: Segment[];
  notes: Note[];
  loads: Segment[];
}

const PT_LOAD = 1;
const PT_NOTE = 4;

export function readCore(bytes: Buffer): Core {
  if (bytes.subarray(0, 7).toString('hex') !== '7f454c46020101') throw new Error('No ELF file');
  const header = {
    type: bytes.readUInt16LE(16),
    machine: bytes.readUInt16LE(18),
    programHeaders: bytes.readUInt16LE(56),
    sectionHeaders: bytes.readUInt16LE(60),
  };
  const place = number(bytes, 32);
  const sectionHeader = number(bytes, 40);
  const count =
    header.programHeaders === 0xffff
      ? bytes.readUInt32LE(sectionHeader + 44)
      : header.programHeaders;
  const segments = Array.from({ length: count }, (_, i) => readSegment(bytes, place + 56 * i));
  const notes = segments
    .filter(({ type }) => type === PT_NOTE)
    .flatMap(({ offset, fileBytes }) => [...readNotes(bytes.subarray(offset, offset + fileBytes))]);
  return { bytes, header, segments, notes, loads: segments.filter(({ type }) => type === PT_LOAD) };
}

/** Bytes of the memory as the core has them; undefined where it has none. */
export function memoryOf(core: Core, address: bigint, bytes: number): Buffer | undefined {
  const load = core.loads.find(
    (each) => each.address <= address && address < each.address + BigInt(each.fileBytes),
  );
  if (load === undefined) return undefined;
  const start = load.offset + Number(address - load.address);
  const end = Math.min(start + bytes, load.offset + load.fileBytes);
  return core.bytes.subarray(start, end);
}

function readSegment(bytes: Buffer, at: number): Segment {
  return {
    type: bytes.readUInt32LE(at),
    flags: bytes.readUInt32LE(at + 4),
    offset: number(bytes, at + 8),
    address: bytes.readBigUInt64LE(at + 16),
    fileBytes: number(bytes, at + 32),
    memoryBytes: bytes.readBigUInt64LE(at + 40),
    alignment: number(bytes, at + 48),
  };
}

function* readNotes(bytes: Buffer): Generator<Note> {
  for (let at = 0; at < bytes.length; ) {
    const [nameBytes, size, type] = [0, 4, 8].map((i) => bytes.readUInt32LE(at + i));
    const name = at + 12;
    const description = name + aligned(nameBytes ?? 0);
    yield {
      owner: bytes.toString('latin1', name, name + (nameBytes ?? 0) - 1),
      type: type ?? 0,
      bytes: bytes.subarray(description, description + (size ?? 0)),
    };
    at = description + aligned(size ?? 0);
  }
}

function aligned(bytes: number): number {
  return (bytes + 3) & ~3;
}

function number(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}
