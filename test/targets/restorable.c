// Memory that changes on command, for restores. Usage: restorable DIRECTORY [THREADS]
//
//   change       writes, maps, unmaps, protects, locks, grows and shrinks whatever is there, and
//                ignores a signal
//   mix SEED     a random schedule of the same in an arena of its own
//   drop NAME    unmaps one of: shared memfd deleted
//   sleep        the first thread waits elsewhere from now on
//   thread       starts another thread
//   replace      changes the file of a private mapping
//
// "check" looks whether all is as it was at the start.
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { kPages = 32, kArenaPages = 512, kHeapBytes = 1 << 20, kDeep = 256 * 1024 };
enum { kSeedThen = 3, kSeedNow = 4 };
static const size_t kSparseBytes = (size_t)1 << 40;

enum kind {
  PLAIN,
  CONST,
  HOLES,
  LOCKED,
  GONE,
  MOVED,
  PRIVATE,
  REMAPPED,
  SHARED,
  FILED,
  MEMFD,
  ALIAS,
  DELETED,
  REGIONS
};
static const char* const kNames[REGIONS] = {"plain", "const",   "holes",    "locked", "gone",
                                            "moved", "private", "remapped", "shared", "filed",
                                            "memfd", "alias",   "deleted"};

static uint8_t* g_at[REGIONS];
static uint8_t* g_heap;
static uint8_t* g_arena;
static uint8_t* g_sparse;
static int g_file;
static int g_pipe[2];
static const char* g_dir;
static uint64_t g_seed = kSeedThen;

static void* map(void* at, size_t bytes, int prot, int flags, int fd) {
  void* p = mmap(at, bytes, prot, flags, fd, 0);
  if (p == MAP_FAILED) {
    die("mmap");
  }
  return p;
}

static uint8_t* anonymous(size_t bytes) {
  // Alone, so that the kernel does not join it with its neighbours.
  uint8_t* reserve = map(NULL, bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  return map(reserve + kPage, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
}

static int make_file(const char* name, char* path, size_t size) {
  snprintf(path, size, "%s/%s", g_dir, name);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) {
    die("open %s", path);
  }
  uint8_t content[kPages * kPage];
  fill(content, sizeof content, 0, kSeedThen);
  if (write(fd, content, sizeof content) != (ssize_t)sizeof content) {
    die("write");
  }
  return fd;
}

static void set_up(void) {
  char path[512];
  const size_t bytes = kPages * kPage;
  for (int i = PLAIN; i <= MOVED; i++) {
    g_at[i] = anonymous(bytes);
    fill(g_at[i], bytes, (uint64_t)i << 32, kSeedThen);
  }
  mprotect(g_at[CONST], bytes, PROT_READ);
  // Every other page is a hole.
  for (int i = 0; i < kPages; i += 2) {
    madvise(g_at[HOLES] + i * kPage, kPage, MADV_DONTNEED);
  }
  mlock(g_at[LOCKED], bytes);
  g_file = make_file("private", path, sizeof path);
  g_at[PRIVATE] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, g_file);
  fill(g_at[PRIVATE], kPage, 0, kSeedNow);
  g_at[REMAPPED] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, g_file);
  fill(g_at[REMAPPED] + kPage, kPage, 0, kSeedNow);
  g_at[SHARED] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
  fill(g_at[SHARED], bytes / 2, (uint64_t)SHARED << 32, kSeedThen);
  int fd = make_file("filed", path, sizeof path);
  g_at[FILED] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  fill(g_at[FILED], bytes, (uint64_t)FILED << 32, kSeedThen);
  close(fd);
  fd = memfd_create("restorable", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
    die("memfd");
  }
  g_at[MEMFD] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  g_at[ALIAS] = map(NULL, bytes, PROT_READ, MAP_SHARED, fd);
  fill(g_at[MEMFD], bytes, (uint64_t)MEMFD << 32, kSeedThen);
  close(fd);
  fd = make_file("deleted", path, sizeof path);
  unlink(path);
  g_at[DELETED] = map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  fill(g_at[DELETED], bytes, (uint64_t)DELETED << 32, kSeedThen);
  close(fd);
  g_sparse = map(NULL, kSparseBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  for (size_t i = 0; i < 8; i++) {
    fill(g_sparse + i * (kSparseBytes / 8), kPage, i, kSeedThen);
  }
  g_arena = anonymous(kArenaPages * kPage);
}

static void expect(const char* name, const uint8_t* at, size_t bytes, uint64_t key, uint64_t seed) {
  long wrong = first_wrong(at, bytes, key, seed);
  if (wrong >= 0) {
    failed("%s is wrong at byte %ld", name, wrong);
  }
}

static void expect_zeros(const char* name, const uint8_t* at, size_t bytes) {
  long wrong = first_nonzero(at, bytes);
  if (wrong >= 0) {
    failed("%s is not zero at byte %ld", name, wrong);
  }
}

static void check(void) {
  const size_t bytes = kPages * kPage;
  for (int i = PLAIN; i < REGIONS; i++) {
    uint64_t key = (uint64_t)(i == ALIAS ? MEMFD : i) << 32;
    if (i == PRIVATE || i == REMAPPED) {
      for (int page = 0; page < kPages; page++) {
        bool own = page == (i == PRIVATE ? 0 : 1);
        expect(kNames[i], g_at[i] + page * kPage, kPage, own ? 0 : (uint64_t)page * kPage,
               own ? kSeedNow : kSeedThen);
      }
    } else if (i == HOLES) {
      for (int page = 0; page < kPages; page++) {
        uint8_t* at = g_at[i] + page * kPage;
        if (page % 2 == 0) {
          expect_zeros(kNames[i], at, kPage);
        } else {
          expect(kNames[i], at, kPage, key + (uint64_t)page * kPage, kSeedThen);
        }
      }
    } else if (i == SHARED) {
      expect(kNames[i], g_at[i], bytes / 2, key, kSeedThen);
      expect_zeros(kNames[i], g_at[i] + bytes / 2, bytes / 2);
    } else {
      expect(kNames[i], g_at[i], bytes, key, kSeedThen);
    }
  }
  for (size_t i = 0; i < 8; i++) {
    expect("sparse", g_sparse + i * (kSparseBytes / 8), kPage, i, kSeedThen);
    expect_zeros("sparse", g_sparse + i * (kSparseBytes / 8) + kPage, kPage);
  }
  expect("heap", g_heap, kHeapBytes, 0, kSeedThen);
  if (sbrk(0) != g_heap + kHeapBytes) {
    failed("the break is elsewhere");
  }
  if (g_seed != kSeedThen) {
    failed("variables are not as they were");
  }
  answer_check();
}

// Makes the stack grow for good.
__attribute__((noinline)) static void go_deep(void) {
  volatile uint8_t deep[kDeep];
  for (size_t i = 0; i < sizeof deep; i += kPage) {
    deep[i] = 1;
  }
}

static void change(bool heap_grows) {
  const size_t bytes = kPages * kPage;
  const size_t half = bytes / 2;
  g_seed = kSeedNow;
  signal(SIGUSR1, SIG_IGN);
  fill(g_at[PLAIN], half, 0, kSeedNow);
  mprotect(g_at[PLAIN] + half, half, PROT_NONE);
  mprotect(g_at[CONST], bytes, PROT_READ | PROT_WRITE);
  fill(g_at[CONST], bytes, 1, kSeedNow);
  mprotect(g_at[CONST], half, PROT_READ | PROT_EXEC);
  fill(g_at[HOLES], bytes, 2, kSeedNow);
  munlock(g_at[LOCKED], half);
  madvise(g_at[LOCKED], half, MADV_DONTNEED);
  fill(g_at[LOCKED] + half, half, 3, kSeedNow);
  munmap(g_at[GONE], bytes);
  uint8_t* elsewhere = anonymous(bytes);
  if (mremap(g_at[MOVED] + half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere) ==
      MAP_FAILED) {
    die("mremap");
  }
  fill(g_at[PRIVATE], bytes, 4, kSeedNow);
  madvise(g_at[PRIVATE], kPage, MADV_DONTNEED);
  munmap(g_at[REMAPPED], half);
  map(g_at[REMAPPED] + half, half, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
      -1);
  for (int i = SHARED; i < REGIONS; i++) {
    if (i != ALIAS) {
      fill(g_at[i], bytes, (uint64_t)i, kSeedNow);
    }
  }
  mprotect(g_at[FILED], bytes, PROT_READ);
  for (size_t i = 0; i < 8; i++) {
    fill(g_sparse + i * (kSparseBytes / 8), 2 * kPage, 99 + i, kSeedNow);
  }
  fill(map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1), bytes, 5,
       kSeedNow);
  map(NULL, bytes, PROT_READ, MAP_SHARED, g_file);
  fill(g_heap, kHeapBytes, 6, kSeedNow);
  if (heap_grows) {
    fill(sbrk(kHeapBytes), kHeapBytes, 7, kSeedNow);
  } else {
    sbrk(-kHeapBytes / 2);
  }
  go_deep();
}

static uint64_t g_random;
static uint64_t random_below(uint64_t limit) {
  g_random = g_random * 6364136223846793005u + 1442695040888963407u;
  return (g_random >> 33) % limit;
}

static void mix(uint64_t seed) {
  static const int kProtections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                                     PROT_READ | PROT_EXEC};
  g_random = seed;
  for (int step = 0; step < 120; step++) {
    size_t first = random_below(kArenaPages);
    size_t pages = 1 + random_below(step % 3 == 0 ? 64 : 4);
    pages = first + pages > kArenaPages ? kArenaPages - first : pages;
    uint8_t* at = g_arena + first * kPage;
    size_t bytes = pages * kPage;
    switch (random_below(8)) {
      case 0:
        munmap(at, bytes);
        break;
      case 1:
        mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        break;
      case 2:
        mprotect(at, bytes, kProtections[random_below(4)]);
        break;
      case 3:
        madvise(at, bytes, random_below(2) ? MADV_DONTNEED : MADV_FREE);
        break;
      case 4:
        mmap(at, bytes < kPages * kPage ? bytes : kPages * kPage, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED, g_file, (off_t)(random_below(4) * kPage));
        break;
      case 5:
        mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
               g_arena + random_below(kArenaPages - pages + 1) * kPage);
        break;
      case 6:
        madvise(at, bytes, random_below(2) ? MADV_DONTFORK : MADV_DOFORK);
        break;
      default:
        break;
    }
    // Through the kernel, which refuses where a write would be a fault.
    for (size_t page = 0; page < pages; page += 1 + random_below(3)) {
      uint64_t content[kWordsPerPage];
      fill(content, sizeof content, seed + (uint64_t)step, first + page);
      int fds[2];
      if (pipe(fds) != 0 || write(fds[1], content, sizeof content) != sizeof content) {
        die("pipe");
      }
      (void)!read(fds[0], at + page * kPage, kPage);
      close(fds[0]);
      close(fds[1]);
    }
  }
}

static void* wait_forever(void* unused) {
  char byte;
  while (read(g_pipe[0], &byte, 1) > 0) {
  }
  return unused;
}

static void start_thread(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, wait_forever, NULL) != 0) {
    die("pthread_create");
  }
}

int main(int argc, char** argv) {
  if (argc < 2 || pipe(g_pipe) != 0) {
    return 1;
  }
  g_dir = argv[1];
  // All that stdio and malloc set up at their first use.
  static char input[4096];
  static char output[4096];
  setvbuf(stdin, input, _IOFBF, sizeof input);
  setvbuf(stdout, output, _IOFBF, sizeof output);
  free(malloc(1));
  set_up();
  for (int i = 0; i < (argc > 2 ? atoi(argv[2]) : 0); i++) {
    start_thread();
  }
  // Last, so that nobody else's memory is above it.
  g_heap = sbrk(kHeapBytes);
  fill(g_heap, kHeapBytes, 0, kSeedThen);
  printf("{\"pid\":%d,\"memfd\":\"0x%lx\"}\n", getpid(), (unsigned long)g_at[MEMFD]);
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      check();
      continue;
    }
    if (strncmp(line, "change", 6) == 0) {
      change(line[6] == 0);
    } else if (strncmp(line, "mix ", 4) == 0) {
      mix(strtoull(line + 4, NULL, 10));
    } else if (strncmp(line, "drop ", 5) == 0) {
      for (int i = 0; i < REGIONS; i++) {
        if (strcmp(line + 5, kNames[i]) == 0) {
          munmap(g_at[i], kPages * kPage);
        }
      }
    } else if (strcmp(line, "thread") == 0) {
      start_thread();
    } else if (strcmp(line, "sleep") == 0) {
      printf("{\"ok\":true}\n");
      fflush(stdout);
      pause();
    } else if (strcmp(line, "replace") == 0) {
      char content[kPage] = {0};
      (void)!pwrite(g_file, content, sizeof content, 5 * kPage);
    }
    printf("{\"ok\":true}\n");
    fflush(stdout);
  }
  return 0;
}
