/** Figures as people read them: sizes in MiB, times in ms, whatever their magnitude. */

const MEBI = 1024 * 1024;

/** `271.5 MiB` */
export function mib(bytes: number): string {
  return `${(bytes / MEBI).toFixed(1)} MiB`;
}

/** The same for columns: without the unit, and fine enough to show a single page. */
export function mibNumber(bytes: number): string {
  return (bytes / MEBI).toFixed(3);
}

/** `12.4 ms` for microseconds. */
export function ms(microseconds: number): string {
  return `${(microseconds / 1000).toFixed(microseconds < 10_000 ? 2 : 1)} ms`;
}

/** `1234 MiB/s`; undefined where no time was measured. */
export function rate(bytes: number, microseconds: number): string | undefined {
  if (microseconds <= 0) return undefined;
  const value = bytes / MEBI / (microseconds / 1e6);
  return `${value.toFixed(value < 10 ? 1 : 0)} MiB/s`;
}
