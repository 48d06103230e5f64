/** USER_HZ, the clock ticks of proc_pid_stat(5), is 100 on all machines that Sluice runs on. */
export const MICROSECONDS_PER_TICK = 10_000n;
