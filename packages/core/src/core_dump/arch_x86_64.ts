/** All of a core that is bound to x86-64: the layouts of linux/elfcore.h there, which are the kernel's ABI. */
import type { ManifestProcess, ManifestState, ManifestThread } from '../image/manifest.js';

/** EM_X86_64 */
export const MACHINE = 62;

const PRSTATUS_BYTES = 336;
const PRSTATUS = { pending: 16, blocked: 24, ids: 32, registers: 112, hasFpRegisters: 328 };
/** `struct user_regs_struct` */
export const REGISTERS_BYTES = 216;

const PRPSINFO_BYTES = 136;
const PRPSINFO = { nice: 3, flags: 8, userId: 16, groupId: 20, ids: 24, name: 40, arguments: 56 };
/** TASK_RUNNING. Threads stand in a freeze; what they did before is in their registers. */
const STATE_NAME = 'R';
const NAME_BYTES = 16;
const ARGUMENTS_BYTES = 80;

/** `user_fpregs_struct`: the legacy area, with which extended registers begin. */
const FP_REGISTERS_BYTES = 512;

/** Its last field, flags, is reserved. */
const XFEATURE = { size: 4, offset: 8, bytes: 16 };

/** `siginfo_t` of no signal. */
export const SIGNAL_INFO = new Uint8Array(128);

/** `struct elf_prstatus`. CPU times are not in an image, and stay 0; so does the signal. */
export function threadStatus(thread: ManifestThread, state: ManifestState): Uint8Array {
  const { namespaceTid, registers, pendingSignals, signalMask } = thread;
  const bytes = new Uint8Array(PRSTATUS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(PRSTATUS.pending, pendingSignals, true);
  view.setBigUint64(PRSTATUS.blocked, signalMask, true);
  setIds(view, PRSTATUS.ids, namespaceTid, state);
  bytes.set(registers, PRSTATUS.registers);
  view.setInt32(PRSTATUS.hasFpRegisters, fpRegisters(thread) === undefined ? 0 : 1, true);
  return bytes;
}

/** `struct elf_prpsinfo`. */
export function processInfo(process: ManifestProcess, state: ManifestState): Uint8Array {
  const bytes = new Uint8Array(PRPSINFO_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(1, STATE_NAME.charCodeAt(0));
  view.setInt8(PRPSINFO.nice, state.nice);
  view.setBigUint64(PRPSINFO.flags, state.flags, true);
  view.setUint32(PRPSINFO.userId, state.userIds[0] ?? 0, true);
  view.setUint32(PRPSINFO.groupId, state.groupIds[0] ?? 0, true);
  setIds(view, PRPSINFO.ids, process.namespacePid, state);
  // Both end with a NUL.
  bytes.set(Buffer.from(process.name).subarray(0, NAME_BYTES - 1), PRPSINFO.name);
  const line = Buffer.from(process.commandLine.join(' '));
  bytes.set(line.subarray(0, ARGUMENTS_BYTES - 1), PRPSINFO.arguments);
  return bytes;
}

/** Undefined if they are not known. */
export function fpRegisters({ extendedRegisters }: ManifestThread): Uint8Array | undefined {
  if (extendedRegisters.length < FP_REGISTERS_BYTES) return undefined;
  return extendedRegisters.subarray(0, FP_REGISTERS_BYTES);
}

/** All that XSAVE has; undefined on a processor without it. */
export function xsaveArea({ extendedRegisters }: ManifestThread): Uint8Array | undefined {
  return extendedRegisters.length > FP_REGISTERS_BYTES ? extendedRegisters : undefined;
}

/** `struct x86_xfeat_component` of each feature; undefined if they are not known. */
export function xsaveLayout({ extendedLayout }: ManifestState): Uint8Array | undefined {
  if (extendedLayout.length === 0) return undefined;
  const bytes = new Uint8Array(XFEATURE.bytes * extendedLayout.length);
  const view = new DataView(bytes.buffer);
  extendedLayout.forEach((feature, i) => {
    const start = XFEATURE.bytes * i;
    view.setUint32(start, feature.number, true);
    view.setUint32(start + XFEATURE.size, feature.bytes, true);
    view.setUint32(start + XFEATURE.offset, feature.offset, true);
  });
  return bytes;
}

function setIds(view: DataView, offset: number, id: number, state: ManifestState): void {
  [id, state.parentPid, state.processGroup, state.sessionLeader].forEach((value, i) => {
    view.setInt32(offset + 4 * i, value, true);
  });
}
