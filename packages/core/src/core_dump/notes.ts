/** The notes of a core, in the kernel's order: what debuggers know of threads and files. */
import { PAGE_BYTES } from '../image/layout.js';
import type { ManifestProcess, ManifestState, ManifestVma } from '../image/manifest.js';
import {
  fpRegisters,
  processInfo,
  SIGNAL_INFO,
  threadStatus,
  xsaveArea,
  xsaveLayout,
} from './arch_x86_64.js';
import { isOfFile } from './filter.js';

const NT_PRSTATUS = 1;
const NT_FPREGSET = 2;
const NT_PRPSINFO = 3;
const NT_AUXV = 6;
const NT_X86_XSTATE = 0x202;
const NT_X86_XSAVE_LAYOUT = 0x205;
const NT_FILE = 0x4649_4c45;
const NT_SIGINFO = 0x5349_4749;

const ALIGNMENT = 4;

/** One note after the other. The main thread is the first, which debuggers take for the current one. */
export function notesOf(process: ManifestProcess, state: ManifestState): Uint8Array[] {
  const { pid, threads, vmas } = process;
  const ofProcess = [
    note('CORE', NT_PRPSINFO, processInfo(process, state)),
    note('CORE', NT_SIGINFO, SIGNAL_INFO),
    note('CORE', NT_AUXV, state.auxiliaryVector),
    note('CORE', NT_FILE, mappedFiles(vmas)),
  ];
  const mainFirst = [...threads].sort((a, b) => Number(b.tid === pid) - Number(a.tid === pid));
  const ofThreads = mainFirst.flatMap((thread, i) => [
    note('CORE', NT_PRSTATUS, threadStatus(thread, state)),
    ...(i === 0 ? ofProcess : []),
    ...optionalNote('CORE', NT_FPREGSET, fpRegisters(thread)),
    ...optionalNote('LINUX', NT_X86_XSTATE, xsaveArea(thread)),
  ]);
  return [...ofThreads, ...optionalNote('LINUX', NT_X86_XSAVE_LAYOUT, xsaveLayout(state))];
}

function optionalNote(owner: string, type: number, description: Uint8Array | undefined) {
  return description === undefined ? [] : [note(owner, type, description)];
}

function note(owner: string, type: number, description: Uint8Array): Uint8Array {
  const name = Buffer.from(`${owner}\0`);
  const start = 12 + aligned(name.length);
  const bytes = new Uint8Array(start + aligned(description.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, name.length, true);
  view.setUint32(4, description.length, true);
  view.setUint32(8, type, true);
  bytes.set(name, 12);
  bytes.set(description, start);
  return bytes;
}

/** NT_FILE: count and page size, then start, end and offset in pages of each mapping, then the paths. */
function mappedFiles(vmas: readonly ManifestVma[]): Uint8Array {
  const files = vmas.filter(isOfFile);
  const numbers = BigUint64Array.from([
    BigInt(files.length),
    BigInt(PAGE_BYTES),
    ...files.flatMap(({ start, end, offset }) => [start, end, offset / BigInt(PAGE_BYTES)]),
  ]);
  const paths = Buffer.from(files.map(({ path }) => `${path}\0`).join(''));
  return Buffer.concat([new Uint8Array(numbers.buffer), paths]);
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
