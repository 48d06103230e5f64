// Keeps invariants across memory of every kind, without a lock, while it writes all the time.
// Usage: invariants [locked] [huge] [filtered] [uffd] [nproc=N]
//   sweep  a counter in every page: a thread sets all of them to 1, then all to 2, and so on, in
//   the
//          order of "segments": at any instant they hold n, ..., n, n-1, ..., n-1
//   pair   another thread moves one at a time from the first page to the second, back when it is
//          empty: at any instant their sum is the total, or one less
// locked: some of it is locked in memory. huge: some of it is in huge pages. filtered: it is killed
// if it forks, maps or waits. uffd: with a userfaultfd of its own, which is to be told of forks and
// which nobody reads. nproc: so many tasks may its user have.
#include "filter.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { kBulkPages = 150, kSpecialPages = 16, kHugePages = 512, kMostSegments = 32, kTotal = 1000 };

typedef struct {
  char* start;
  size_t pages;
} Segment;

static Segment g_segments[kMostSegments];
static int g_segment_count;
static _Atomic uint64_t* g_pair[2];
static atomic_bool g_stop;
static atomic_int g_forks;

static char* add(void* memory, size_t pages) {
  if (memory == MAP_FAILED) {
    die("mmap");
  }
  g_segments[g_segment_count++] = (Segment){memory, pages};
  return memory;
}

static char* map(size_t pages, int flags) {
  return mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
}

// Ordinary memory, then that which a twin has not, or not in the same way.
static void map_all(bool locked, bool huge) {
  add(map(kBulkPages, MAP_PRIVATE), kBulkPages);
  madvise(add(map(kSpecialPages, MAP_PRIVATE), kSpecialPages), kSpecialPages * kPage,
          MADV_DONTFORK);
  add(map(kBulkPages, MAP_PRIVATE), kBulkPages);
  madvise(add(map(kSpecialPages, MAP_PRIVATE), kSpecialPages), kSpecialPages * kPage,
          MADV_WIPEONFORK);
  add(map(kBulkPages, MAP_PRIVATE), kBulkPages);
  add(map(kSpecialPages, MAP_SHARED), kSpecialPages);
  add(map(kBulkPages, MAP_PRIVATE), kBulkPages);
  int self = open("/proc/self/exe", O_RDONLY);
  add(mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, self, 0), 4);
  close(self);
  if (locked) {
    char* memory = add(map(kSpecialPages, MAP_PRIVATE), kSpecialPages);
    if (mlock(memory, kSpecialPages * kPage) != 0) {
      die("mlock");
    }
  }
  if (huge) {
    char* memory = map(2 * kHugePages, MAP_PRIVATE);
    char* aligned = (char*)(((uint64_t)memory + kHugePages * kPage - 1) & -(kHugePages * kPage));
    madvise(aligned, kHugePages * kPage, MADV_HUGEPAGE);
    add(aligned, kHugePages);
  }
  add(map(kBulkPages, MAP_PRIVATE), kBulkPages);
}

static void* sweep(void* unused) {
  (void)unused;
  for (uint64_t n = 1; !atomic_load(&g_stop); n++) {
    for (int s = 0; s < g_segment_count; s++) {
      for (size_t page = 0; page < g_segments[s].pages; page++) {
        _Atomic uint64_t* word = (_Atomic uint64_t*)(g_segments[s].start + page * kPage);
        atomic_store_explicit(word, n, memory_order_release);
      }
    }
  }
  return NULL;
}

static void* move(void* unused) {
  (void)unused;
  for (int from = 0; !atomic_load(&g_stop); from = 1 - from) {
    for (int i = 0; i < kTotal && !atomic_load(&g_stop); i++) {
      atomic_fetch_sub(g_pair[from], 1);
      atomic_fetch_add(g_pair[1 - from], 1);
    }
  }
  return NULL;
}

static void count_fork(void) { atomic_fetch_add(&g_forks, 1); }

static void install_filter(void) {
  static const uint32_t killing[] = {SYS_clone, SYS_clone3,  SYS_fork,     SYS_vfork,
                                     SYS_wait4, SYS_madvise, SYS_vmsplice, SYS_pipe2};
  enum { kCount = sizeof killing / sizeof *killing };
  filter_calls(killing, kCount, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW,
               SECCOMP_FILTER_FLAG_TSYNC);
}

static void watch_itself(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK};
  struct uffdio_register range = {
      .range = {(uint64_t)map(kSpecialPages, MAP_PRIVATE), kSpecialPages * kPage},
      .mode = UFFDIO_REGISTER_MODE_MISSING,
  };
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &range) != 0) {
    die("userfaultfd");
  }
}

static void check(void) {
  if (atomic_load(&g_forks) != 0) {
    failed("its fork handlers ran %d times", atomic_load(&g_forks));
  }
  answer_check();
}

int main(int argc, char** argv) {
  bool locked = false, huge = false, filtered = false, uffd = false;
  for (int i = 1; i < argc; i++) {
    locked = locked || strcmp(argv[i], "locked") == 0;
    huge = huge || strcmp(argv[i], "huge") == 0;
    filtered = filtered || strcmp(argv[i], "filtered") == 0;
    uffd = uffd || strcmp(argv[i], "uffd") == 0;
    if (strncmp(argv[i], "nproc=", 6) == 0) {
      struct rlimit limit = {strtoul(argv[i] + 6, NULL, 10), strtoul(argv[i] + 6, NULL, 10)};
      if (setrlimit(RLIMIT_NPROC, &limit) != 0) {
        die("setrlimit");
      }
    }
  }
  pthread_atfork(count_fork, count_fork, count_fork);
  map_all(locked, huge);
  g_pair[0] = (_Atomic uint64_t*)map(1, MAP_PRIVATE);
  g_pair[1] = (_Atomic uint64_t*)map(1, MAP_SHARED);
  atomic_store(g_pair[0], kTotal);
  pthread_t threads[2];
  if (pthread_create(&threads[0], NULL, sweep, NULL) != 0 ||
      pthread_create(&threads[1], NULL, move, NULL) != 0) {
    die("pthread_create");
  }
  if (filtered) {
    install_filter();
  }
  if (uffd) {
    watch_itself();
  }
  printf("{\"ready\":true,\"pid\":%d,\"pair\":[\"0x%lx\",\"0x%lx\"],\"total\":%d,\"segments\":[",
         (int)getpid(), (unsigned long)g_pair[0], (unsigned long)g_pair[1], kTotal);
  for (int s = 0; s < g_segment_count; s++) {
    printf("%s{\"start\":\"0x%lx\",\"pages\":%zu}", s == 0 ? "" : ",",
           (unsigned long)g_segments[s].start, g_segments[s].pages);
  }
  printf("]}\n");
  fflush(stdout);
  char line[32];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      check();
    }
  }
  atomic_store(&g_stop, true);
  pthread_join(threads[0], NULL);
  pthread_join(threads[1], NULL);
  return 0;
}
