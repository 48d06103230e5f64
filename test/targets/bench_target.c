// Memory for the benchmark to dump: random pages of 4 KiB that nothing writes to once it is ready.
// Usage: bench_target MEBIBYTES
//
// It sleeps except while it is asked to watch itself, so that its CPU time is what a dump costs it:
//   usage  answers the CPU time of the process and of the children it has reaped, in us
//   watch  starts a thread that reads the clock in a loop
//   gap    ends that thread and answers the largest gap between two readings, in us
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

static atomic_bool g_watching;
static atomic_bool g_stop;
static uint64_t g_largest_gap_ns;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void* watch(void* unused) {
  (void)unused;
  g_largest_gap_ns = 0;
  atomic_store(&g_watching, true);
  uint64_t last = now_ns();
  while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
    const uint64_t now = now_ns();
    if (now - last > g_largest_gap_ns) {
      g_largest_gap_ns = now - last;
    }
    last = now;
  }
  return NULL;
}

static long us_of(struct timeval time) { return time.tv_sec * 1000000 + time.tv_usec; }

static void answer_usage(void) {
  struct rusage self, children;
  if (getrusage(RUSAGE_SELF, &self) != 0 || getrusage(RUSAGE_CHILDREN, &children) != 0) {
    die("getrusage");
  }
  printf(
      "{\"self\":{\"userUs\":%ld,\"systemUs\":%ld},"
      "\"children\":{\"userUs\":%ld,\"systemUs\":%ld}}\n",
      us_of(self.ru_utime), us_of(self.ru_stime), us_of(children.ru_utime),
      us_of(children.ru_stime));
}

int main(int argc, char** argv) {
  const size_t bytes = argc == 2 ? strtoul(argv[1], NULL, 10) << 20 : 0;
  if (bytes == 0) {
    errno = EINVAL;
    die("usage: bench_target MEBIBYTES");
  }
  // Where only a parent may trace its children (Yama), any process of this user may trace this one.
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    die("mmap of %zu bytes", bytes);
  }
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  fill(memory, bytes, (uint64_t)memory, 1);
  printf("{\"ready\":true}\n");
  fflush(stdout);

  pthread_t watcher;
  bool watching = false;
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "usage") == 0) {
      answer_usage();
    } else if (strcmp(line, "watch") == 0 && !watching) {
      atomic_store(&g_stop, false);
      atomic_store(&g_watching, false);
      if (pthread_create(&watcher, NULL, watch, NULL) != 0) {
        die("pthread_create");
      }
      watching = true;
      while (!atomic_load(&g_watching)) {
        sched_yield();
      }
      printf("{\"ok\":true}\n");
    } else if (strcmp(line, "gap") == 0 && watching) {
      atomic_store(&g_stop, true);
      pthread_join(watcher, NULL);
      watching = false;
      printf("{\"gapUs\":%lu}\n", g_largest_gap_ns / 1000);
    } else {
      errno = EINVAL;
      die("no such command now: %s", line);
    }
    fflush(stdout);
  }
  return 0;
}
