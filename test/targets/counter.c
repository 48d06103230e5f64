// Counts in memory and tells how far in a file; ends if its memory is not what it wrote. It talks
// to nobody, has no terminal and no pipe: a process that checkpoint and restore programs can take.
//   counter FILE PAGES
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

#include "target.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const uint64_t pages = strtoull(argv[2], NULL, 10);
  uint64_t* memory =
      mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == 0 || memory == MAP_FAILED) return 2;
  for (uint64_t count = 0;; count++) {
    uint64_t* word = memory + (count % pages) * kWordsPerPage;
    const uint64_t expected = count < pages ? 0 : count - pages + 1;
    if (*word != expected) return 1;
    *word = count + 1;
    if (count < pages) continue;
    const int fd = open(argv[1], O_WRONLY | O_CREAT, 0600);
    if (fd < 0) return 2;
    if (dprintf(fd, "%020llu\n", (unsigned long long)count) != 21) return 2;
    close(fd);
    const struct timespec pause = {0, 1000 * 1000};
    nanosleep(&pause, NULL);
  }
}
