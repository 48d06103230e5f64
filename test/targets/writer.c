// Writes to its memory all the time and measures its own pauses.
// Usage: writer MEBIBYTES WRITES_PER_MS [thp]
//
// Three kinds of memory tell a reader whether what it sees is one instant:
//   values   the whole of it: each word holds a count in its lower half and in its upper half what
//            follows from count and address, so that a torn word is seen; written at random
//   sweep    one word on each of some pages; the writer sets all of them to 1, then all to 2, and
//   so
//            on, in a known order: at any instant they hold n, ..., n, n-1, ..., n-1
//   counters two threads hand a number on: at any instant a >= b >= a - 1
// Commands besides check and exit: "reset" forgets pauses, "pauses" prints the largest, in us.
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

enum { kSweepPages = 1024, kSweepStep = 389 };  // the step is odd: it reaches every page

static uint64_t* g_values;
static size_t g_value_words;
static volatile uint64_t* g_sweep;
static volatile uint64_t* g_counters;
static atomic_bool g_stop;
static atomic_ulong g_writes;
static atomic_ulong g_largest_pause_us;
static atomic_bool g_reset;
static long g_writes_per_ms;

static uint64_t value_of(const uint64_t* at, uint32_t count) {
  return word_at((uint64_t)at, count) << 32 | count;
}

static volatile uint64_t* sweep_word(size_t step) {
  return g_sweep + (step * kSweepStep % kSweepPages) * kWordsPerPage;
}

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void* write_values(void* unused) {
  (void)unused;
  uint64_t random = 88172645463325252u;
  uint32_t count = 1;
  uint64_t due = now_us();
  while (!atomic_load(&g_stop)) {
    for (long i = 0; i < g_writes_per_ms; i++) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      uint64_t* at = g_values + random % g_value_words;
      *(volatile uint64_t*)at = value_of(at, ++count);
    }
    atomic_fetch_add(&g_writes, (unsigned long)g_writes_per_ms);
    due += 1000;
    uint64_t now = now_us();
    if (now < due) {
      struct timespec nap = {.tv_nsec = (long)(due - now) * 1000};
      nanosleep(&nap, NULL);
    } else {
      due = now;
    }
  }
  return NULL;
}

static void* write_sweep(void* unused) {
  (void)unused;
  for (uint64_t n = 1; !atomic_load(&g_stop); n++) {
    // Stores become visible in the order in which they are made.
    for (size_t i = 0; i < kSweepPages; i++) {
      atomic_store_explicit((_Atomic uint64_t*)sweep_word(i), n, memory_order_release);
    }
  }
  return NULL;
}

static void* write_counter(void* index) {
  volatile uint64_t* own = g_counters + ((size_t)index) * kWordsPerPage;
  volatile uint64_t* other = g_counters + (1 - (size_t)index) * kWordsPerPage;
  while (!atomic_load(&g_stop)) {
    uint64_t mine = atomic_load((_Atomic uint64_t*)own);
    uint64_t theirs = atomic_load((_Atomic uint64_t*)other);
    // The first goes ahead when both are equal, the second follows.
    if (index == 0 ? mine == theirs : mine < theirs) {
      atomic_store((_Atomic uint64_t*)own, mine + 1);
    } else {
      sched_yield();
    }
  }
  return NULL;
}

static void* measure(void* unused) {
  (void)unused;
  uint64_t last = now_us();
  while (!atomic_load(&g_stop)) {
    uint64_t now = now_us();
    if (atomic_exchange(&g_reset, false)) {
      atomic_store(&g_largest_pause_us, 0);
    } else if (now - last > atomic_load(&g_largest_pause_us)) {
      atomic_store(&g_largest_pause_us, now - last);
    }
    last = now;
  }
  return NULL;
}

static void check_values(void) {
  for (size_t i = 0; i < g_value_words; i++) {
    uint64_t found = *(volatile uint64_t*)&g_values[i];
    if (found != value_of(&g_values[i], (uint32_t)found)) {
      failed("value %zu is %lx", i, found);
      return;
    }
  }
}

int main(int argc, char** argv) {
  if (argc < 3) {
    die("usage: writer MEBIBYTES WRITES_PER_MS [thp]");
  }
  const size_t bytes = strtoul(argv[1], NULL, 10) << 20;
  g_writes_per_ms = strtol(argv[2], NULL, 10);
  const bool thp = argc > 3 && strcmp(argv[3], "thp") == 0;
  const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  g_value_words = bytes / 8;
  g_values = mmap(NULL, bytes, prot, flags, -1, 0);
  g_sweep = mmap(NULL, kSweepPages * kPage, prot, flags, -1, 0);
  g_counters = mmap(NULL, 2 * kPage, prot, flags, -1, 0);
  if (g_values == MAP_FAILED || g_sweep == MAP_FAILED || g_counters == MAP_FAILED) {
    die("mmap");
  }
  madvise(g_values, bytes, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  for (size_t i = 0; i < g_value_words; i++) {
    g_values[i] = value_of(&g_values[i], 0);
  }

  void* (*const work[])(void*) = {write_values, write_sweep, write_counter, write_counter, measure};
  pthread_t threads[5];
  for (size_t i = 0; i < 5; i++) {
    if (pthread_create(&threads[i], NULL, work[i], (void*)(i == 3 ? 1ul : 0ul)) != 0) {
      die("pthread_create");
    }
  }
  // Ready once each of the writers has written.
  while (atomic_load(&g_writes) == 0 || *sweep_word(kSweepPages - 1) == 0 || g_counters[0] < 2) {
    sched_yield();
  }
  printf(
      "{\"ready\":true,\"pid\":%d,\"values\":\"0x%lx\",\"valueBytes\":%zu,\"sweep\":\"0x%lx\","
      "\"sweepPages\":%d,\"sweepStep\":%d,\"counters\":\"0x%lx\"}\n",
      (int)getpid(), (unsigned long)g_values, bytes, (unsigned long)g_sweep, kSweepPages,
      kSweepStep, (unsigned long)g_counters);
  fflush(stdout);

  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      check_values();
      // Still at work, all of them.
      uint64_t writes = atomic_load(&g_writes), sweep = *sweep_word(0), counter = g_counters[0];
      while (atomic_load(&g_writes) == writes || *sweep_word(0) == sweep ||
             g_counters[0] == counter) {
        sched_yield();
      }
      answer_check();
    } else if (strcmp(line, "reset") == 0) {
      atomic_store(&g_reset, true);
      while (atomic_load(&g_reset)) {
        sched_yield();
      }
      printf("{\"ok\":true}\n");
      fflush(stdout);
    } else if (strcmp(line, "pauses") == 0) {
      printf("{\"ok\":true,\"largestPauseUs\":%lu,\"writes\":%lu}\n",
             atomic_load(&g_largest_pause_us), atomic_load(&g_writes));
      fflush(stdout);
    }
  }
  atomic_store(&g_stop, true);
  for (size_t i = 0; i < 5; i++) {
    pthread_join(threads[i], NULL);
  }
  return 0;
}
