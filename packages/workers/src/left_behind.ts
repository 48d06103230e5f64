/**
 * Work that hangs in the kernel, on a dead disk or file server. Nobody can end it but the kernel, when the
 * process ends; and Node would wait for it before it lets that happen.
 */
import { addon } from '@sluice/native';

const left = new Set<Promise<unknown>>();

function endProcess(code: number): void {
  addon.endProcess(code);
}

/** Waits for this no more, and lets the process end without it. */
export function leaveBehind(ending: Promise<unknown>): void {
  if (left.size === 0) process.on('exit', endProcess);
  left.add(ending);
  const settled = () => {
    left.delete(ending);
    if (left.size === 0) process.removeListener('exit', endProcess);
  };
  ending.then(settled, settled);
}
