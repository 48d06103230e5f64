/** Failures of system calls, made to order by the seam of the native layer. */
import { constants } from 'node:os';
import { addon, type Fault } from '@sluice/native';

export type FaultSpec = Pick<Fault, 'call'> & {
  /** Calls let through first; none if not given. */
  skip?: number;
  /** Calls hit after that; all if not given. */
  times?: number;
  /** Name like `ENOSPC`. */
  errno?: keyof typeof constants.errno;
  capBytes?: number;
  mode?: 'copy' | 'hang';
};

/** As the addon takes them. */
export function toFaults(faults: FaultSpec[]): Fault[] {
  return faults.map(({ errno, ...fault }) => ({
    skip: 0,
    times: -1,
    errno: errno === undefined ? 0 : constants.errno[errno],
    capBytes: 0,
    mode: '',
    ...fault,
  }));
}

/** Runs `work` with these faults, and without any afterwards. */
export async function withFaults<Value>(
  faults: FaultSpec[],
  work: () => Promise<Value>,
): Promise<Value> {
  addon.setFaults(toFaults(faults));
  try {
    return await work();
  } finally {
    addon.setFaults([]);
  }
}
