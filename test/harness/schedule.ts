/** What the target `schedule` says of itself: test/targets/schedule.c. Addresses as 0x…. */
export interface ScheduleInfo {
  pid: number;
  /** Where the records of its pages are, `recordBytes` each. */
  records: string;
  recordBytes: number;
  /** Of the byte in a record that says whether the page may have been freed by the kernel. */
  lazyAt: number;
  /** Where its workers have their pages, `slicePages` each. */
  slices: string[];
  slicePages: number;
  [field: string]: unknown;
}
