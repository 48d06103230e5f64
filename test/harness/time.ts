/** Time limits that fit the machine: everything takes ten times as long in an emulated one. */
export const TIME_SCALE = Number(process.env.SLUICE_TIME_SCALE ?? 1);

/** A limit for this machine, of one for an ordinary machine. Both in ms. */
export function scaledMs(limitMs: number): number {
  return limitMs * TIME_SCALE;
}
