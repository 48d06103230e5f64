/** Threads and a process for images that cores are made of. */
import type { CapturedState, CapturedThread } from '@sluice/native';
import { pattern } from '../image/support.js';

export const XSAVE_BYTES = 2696;

export function threadOf(tid: number, more: Partial<CapturedThread> = {}): CapturedThread {
  return {
    tid,
    namespaceTid: tid - 70,
    name: `thread ${tid}`,
    registers: pattern(216, tid),
    extendedRegisters: pattern(XSAVE_BYTES, tid + 1),
    signalMask: 0x1234n,
    pendingSignals: 0x5678n,
    robustList: 0n,
    rseq: null,
    ...more,
  };
}

export function stateOf(more: Partial<CapturedState> = {}): CapturedState {
  return {
    parentPid: 3,
    processGroup: 4,
    sessionLeader: 5,
    nice: -2,
    flags: 0x400100n,
    userIds: [1000, 1001, 1002, 1003],
    groupIds: [2000, 2001, 2002, 2003],
    supplementaryGroups: [],
    capabilities: { inheritable: 0n, permitted: 0n, effective: 0n, bounding: 0n, ambient: 0n },
    noNewPrivileges: false,
    seccompMode: 0,
    limits: [],
    auxiliaryVector: pattern(320, 9),
    addresses: {
      startCode: 0n,
      endCode: 0n,
      startStack: 0n,
      startData: 0n,
      endData: 0n,
      startBreak: 0n,
      argumentsStart: 0n,
      argumentsEnd: 0n,
      environmentStart: 0n,
      environmentEnd: 0n,
    },
    programBreak: 0n,
    pendingSignals: 0n,
    ignoredSignals: 0n,
    caughtSignals: 0n,
    signalActions: null,
    extendedLayout: [],
    umask: 0o22,
    workingDirectory: '/',
    root: '/',
    descriptors: [],
    ...more,
  };
}
