// Counts in its memory and tells how far in a file; ends if its memory is not what it wrote. It
// talks to nobody, has no terminal and no pipe: a process that checkpoint and restore programs can
// take.
//   counter FILE PAGES KIND
// KIND: plain; threads: three more threads count in memory of their own; shared: the memory is
// shared (with nobody); hidden: each page has no access rights but while it is counted on.
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "target.h"

static uint64_t g_pages;
static int g_hidden;
static int g_shared;

struct counting {
  uint64_t* memory;
  uint64_t count;
};

static void begin(struct counting* counting) {
  const int kind = g_shared ? MAP_SHARED : MAP_PRIVATE;
  counting->memory =
      mmap(NULL, g_pages * kPage, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
  if (counting->memory == MAP_FAILED) _exit(2);
  counting->count = 0;
}

// One word of one page, in turn; twice the pages are a look at all of them.
static void step(struct counting* counting) {
  const uint64_t count = counting->count++;
  uint64_t* word = counting->memory + (count % g_pages) * kWordsPerPage;
  const uint64_t expected = count < g_pages ? 0 : count - g_pages + 1;
  if (g_hidden && mprotect(word, kPage, PROT_READ | PROT_WRITE) != 0) _exit(2);
  if (*word != expected) _exit(1);
  *word = count + 1;
  if (g_hidden && mprotect(word, kPage, PROT_NONE) != 0) _exit(2);
}

static void rest(void) {
  const struct timespec pause = {0, 1000 * 1000};
  nanosleep(&pause, NULL);
}

static void* count_beside(void* unused) {
  struct counting counting;
  begin(&counting);
  for (;;) {
    step(&counting);
    if (counting.count > g_pages) rest();
  }
  return unused;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  g_pages = strtoull(argv[2], NULL, 10);
  g_hidden = strcmp(argv[3], "hidden") == 0;
  g_shared = strcmp(argv[3], "shared") == 0;
  if (g_pages == 0) return 2;
  pthread_t thread;
  for (int i = 0; i < 3 && strcmp(argv[3], "threads") == 0; i++) {
    if (pthread_create(&thread, NULL, count_beside, NULL) != 0) return 2;
  }
  struct counting counting;
  begin(&counting);
  for (;;) {
    step(&counting);
    if (counting.count <= g_pages) continue;
    const int fd = open(argv[1], O_WRONLY | O_CREAT, 0600);
    if (fd < 0) return 2;
    if (dprintf(fd, "%020llu\n", (unsigned long long)counting.count) != 21) return 2;
    close(fd);
    rest();
  }
}
