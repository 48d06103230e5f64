// Memory for the benchmark to dump: random pages of 4 KiB.
// Usage: bench_target MEBIBYTES
//
// It sleeps except while it is asked to do something, so that its CPU time is what a dump costs it:
//   usage         answers the CPU time of the process and of the children it has reaped, in us
//   watch         starts a thread that reads the clock in a loop
//   gap           ends that thread and answers the largest gap between two readings, in us, and
//   those
//                 gaps in which the thread was stopped, see struct gap
//   write RATE    starts a thread that writes so many random words a second all over the memory
//   written A B   answers how many it wrote from A to B, nanoseconds of CLOCK_MONOTONIC
//   still         ends that thread
//   work          writes to all pages, makes system calls and computes, and answers the CPU time of
//                 each, in ns
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

// Shorter gaps are not looked into.
static const uint64_t kLeastGapNs = 20000;
enum { kMostStops = 256, kTicksPerSecond = 1000, kMostTicks = 1 << 20 };

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// Time between two readings of the clock in which the thread gave up the processor, as it does when
// it is stopped; it does nothing else for which it would. A thread that others merely drove from
// the processor has not stopped, and is not in here.
struct gap {
  uint64_t from_ns;
  uint64_t ns;
  uint64_t waited_ns;  // part of it in which the thread could run and waited for a processor
};

static atomic_bool g_watching;
static atomic_bool g_stop;
static uint64_t g_largest_gap_ns;
static struct gap g_stops[kMostStops];
static size_t g_stop_count;

// For how long this thread has waited for a processor (Documentation/scheduler/sched-stats.rst).
static uint64_t waited_ns(int schedstat) {
  char text[96];
  const ssize_t size = schedstat < 0 ? 0 : pread(schedstat, text, sizeof text - 1, 0);
  text[size < 0 ? 0 : size] = 0;
  unsigned long ran = 0, waited = 0;
  return sscanf(text, "%lu %lu", &ran, &waited) == 2 ? waited : 0;
}

static long given_up(void) {
  struct rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

static void* watch(void* unused) {
  (void)unused;
  const int schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  g_largest_gap_ns = 0;
  g_stop_count = 0;
  long stops = given_up();
  uint64_t waited = waited_ns(schedstat);
  atomic_store(&g_watching, true);
  uint64_t last = now_ns();
  while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
    const uint64_t now = now_ns();
    const struct gap gap = {last, now - last, 0};
    last = now;
    if (gap.ns > g_largest_gap_ns) {
      g_largest_gap_ns = gap.ns;
    }
    if (gap.ns < kLeastGapNs) {
      continue;
    }
    const long stops_now = given_up();
    const uint64_t waited_now = waited_ns(schedstat);
    if (stops_now != stops && g_stop_count < kMostStops) {
      g_stops[g_stop_count] = gap;
      g_stops[g_stop_count++].waited_ns = waited_now - waited;
    }
    stops = stops_now;
    waited = waited_now;
  }
  close(schedstat);
  return NULL;
}

static void answer_gap(void) {
  printf("{\"gapUs\":%.1f,\"stops\":[", (double)g_largest_gap_ns / 1e3);
  for (size_t i = 0; i < g_stop_count; i++) {
    const struct gap gap = g_stops[i];
    printf("%s{\"fromUs\":%.1f,\"us\":%.1f,\"waitedUs\":%.1f}", i == 0 ? "" : ",",
           (double)gap.from_ns / 1e3, (double)gap.ns / 1e3, (double)gap.waited_ns / 1e3);
  }
  printf("]}\n");
}

struct writer {
  uint64_t* memory;
  size_t words;
  uint64_t words_per_tick;
};

static atomic_bool g_still;
static atomic_size_t g_ticks;
static uint64_t g_tick_ns[kMostTicks];  // when each ended; the last ones, in a ring
static struct writer g_writer;

// A thousand times a second. What it misses it does not catch up, so that a disturbed writer writes
// less.
static void* write_words(void* unused) {
  (void)unused;
  const struct writer writer = g_writer;
  const uint64_t tick_ns = 1000000000 / kTicksPerSecond;
  uint64_t random = 1;
  uint64_t next = now_ns();
  for (size_t tick = 0; !atomic_load_explicit(&g_still, memory_order_relaxed); tick++) {
    for (unsigned long i = 0; i < writer.words_per_tick; i++) {
      random = word_at(random, 1);
      writer.memory[random % writer.words] = random;
    }
    const uint64_t now = now_ns();
    g_tick_ns[tick % kMostTicks] = now;
    atomic_store(&g_ticks, tick + 1);
    next = next + tick_ns > now ? next + tick_ns : now;
    const struct timespec until = {(time_t)(next / 1000000000), (long)(next % 1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
  }
  return NULL;
}

static void answer_written(uint64_t from_ns, uint64_t to_ns) {
  const size_t ticks = atomic_load(&g_ticks);
  uint64_t words = 0;
  for (size_t i = ticks > kMostTicks ? ticks - kMostTicks : 0; i < ticks; i++) {
    const uint64_t at = g_tick_ns[i % kMostTicks];
    words += at >= from_ns && at < to_ns ? g_writer.words_per_tick : 0;
  }
  printf("{\"words\":%lu}\n", words);
}

struct thread {
  pthread_t id;
  bool runs;
};

static void start(struct thread* thread, void* (*run)(void*)) {
  if (pthread_create(&thread->id, NULL, run, NULL) != 0) {
    die("pthread_create");
  }
  thread->runs = true;
}

static void end(struct thread* thread, atomic_bool* stop) {
  atomic_store(stop, true);
  pthread_join(thread->id, NULL);
  atomic_store(stop, false);
  thread->runs = false;
}

enum { kPasses = 4, kCalls = 500000, kSteps = 20000000 };

static uint64_t cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void write_all(char* memory, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kPage) {
    ++*(volatile char*)(memory + at);
  }
}

// The first pass alone: it takes whatever faults there are to be taken.
static void answer_work(char* memory, size_t bytes) {
  const uint64_t start = cpu_ns();
  write_all(memory, bytes);
  const uint64_t first = cpu_ns();
  for (int pass = 0; pass < kPasses; pass++) {
    write_all(memory, bytes);
  }
  const uint64_t written = cpu_ns();
  for (int call = 0; call < kCalls; call++) {
    syscall(SYS_getppid);
  }
  const uint64_t called = cpu_ns();
  volatile uint64_t result = 1;
  for (int step = 0; step < kSteps; step++) {
    result = word_at(result, 1);
  }
  printf("{\"firstNs\":%lu,\"writeNs\":%lu,\"callNs\":%lu,\"computeNs\":%lu}\n", first - start,
         written - first, called - written, cpu_ns() - called);
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

  struct thread watcher = {0}, writer = {0};
  unsigned long rate;
  uint64_t from_ns, to_ns;
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "usage") == 0) {
      answer_usage();
    } else if (strcmp(line, "work") == 0) {
      answer_work(memory, bytes);
    } else if (strcmp(line, "watch") == 0 && !watcher.runs) {
      atomic_store(&g_watching, false);
      start(&watcher, watch);
      while (!atomic_load(&g_watching)) {
        sched_yield();
      }
      printf("{\"ok\":true}\n");
    } else if (strcmp(line, "gap") == 0 && watcher.runs) {
      end(&watcher, &g_stop);
      answer_gap();
    } else if (sscanf(line, "write %lu", &rate) == 1 && !writer.runs) {
      g_writer = (struct writer){memory, bytes / sizeof(uint64_t), rate / kTicksPerSecond};
      atomic_store(&g_ticks, 0);
      start(&writer, write_words);
      printf("{\"ok\":true}\n");
    } else if (sscanf(line, "written %lu %lu", &from_ns, &to_ns) == 2 && writer.runs) {
      answer_written(from_ns, to_ns);
    } else if (strcmp(line, "still") == 0 && writer.runs) {
      end(&writer, &g_still);
      printf("{\"ok\":true}\n");
    } else {
      errno = EINVAL;
      die("no such command now: %s", line);
    }
    fflush(stdout);
  }
  return 0;
}
