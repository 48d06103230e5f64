// A small target whose memory changes in the ways that are hard to follow, on command.
// Usage: hazards FILE [sparse]
//
// Commands, each answered: "gift" gives a page to a pipe and changes it, "drop", "move", "hide",
// "shared", "look" (touches what it only reads), "page-out", "userfault", "check"; "exec" is
// answered by the ready line of the new program, "end" by nothing.
#include "target.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum { kPages = 64, kFilePages = 16 };

struct part {
  uint8_t* at;
  size_t pages;
  uint64_t key;
  uint64_t seed;  // 0: zeros
};

static uint8_t* g_memory;
static uint8_t* g_zeros;
static uint8_t* g_file;
static uint8_t* g_shared;
static struct part g_parts[32];
static int g_part_count;
static int g_mem;
static int g_to_child[2], g_from_child[2];

static void* map(void* at, size_t pages, int flags, int fd) {
  const int prot = PROT_READ | PROT_WRITE;
  void* p = mmap(at, pages * kPage, prot, flags | (at ? MAP_FIXED : 0), fd, 0);
  if (p == MAP_FAILED) {
    die("mmap");
  }
  return p;
}

static void expect(void* at, size_t pages, uint64_t key, uint64_t seed) {
  g_parts[g_part_count++] = (struct part){at, pages, key, seed};
}

// Fills pages and notes it.
static void put(uint8_t* at, size_t pages, uint64_t seed) {
  fill(at, pages * kPage, (uint64_t)at, seed);
  expect(at, pages, (uint64_t)at, seed);
}

static uint8_t* page(size_t index) { return g_memory + index * kPage; }

static bool gift(void) {
  int fds[2];
  static uint64_t read_back[kWordsPerPage];
  uint64_t* given = map(NULL, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  fill(given, kPage, 1, 1);
  struct iovec vector = {given, kPage};
  if (pipe(fds) != 0 || vmsplice(fds[1], &vector, 1, SPLICE_F_GIFT) != kPage) {
    die("vmsplice");
  }
  fill(given, kPage, 1, 2);
  if (read(fds[0], read_back, kPage) != kPage) {
    die("read");
  }
  close(fds[0]);
  close(fds[1]);
  munmap(given, kPage);
  return first_wrong(read_back, kPage, 1, 2) < 0;
}

static void drop(void) {
  madvise(page(8), 8 * kPage, MADV_DONTNEED);
  expect(page(8), 8, 0, 0);
  munmap(page(16), 8 * kPage);
  map(page(16), 8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  expect(page(16), 4, 0, 0);
  put(page(20), 4, 2);
}

static void move(void) {
  uint8_t* to = map(NULL, 8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (mremap(page(32), 8 * kPage, 8 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
    die("mremap");
  }
  expect(to, 8, (uint64_t)page(32), 1);
  map(page(32), 8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  expect(page(32), 8, 0, 0);
  put(page(34), 2, 3);
  put(map(NULL, 16, MAP_PRIVATE | MAP_ANONYMOUS, -1), 16, 4);
}

static void hide(void) {
  put(page(40), 8, 5);
  if (mprotect(page(40), 8 * kPage, PROT_NONE) != 0) {
    die("mprotect");
  }
}

static void write_by_child(void) {
  char byte = 1;
  if (write(g_to_child[1], &byte, 1) != 1 || read(g_from_child[0], &byte, 1) != 1) {
    die("the child");
  }
  expect(g_shared + 4 * kPage, 4, 7, 7);
}

static void start_child(void) {
  if (pipe2(g_to_child, O_CLOEXEC) != 0 || pipe2(g_from_child, O_CLOEXEC) != 0) {
    die("pipe");
  }
  if (fork() != 0) {
    return;
  }
  prctl(PR_SET_PDEATHSIG, 9);
  close(0);
  close(1);
  close(2);
  for (char byte; read(g_to_child[0], &byte, 1) == 1;) {
    fill(g_shared + 4 * kPage, 4 * kPage, 7, 7);
    (void)!write(g_from_child[1], &byte, 1);
  }
  _exit(0);
}

static bool open_userfault(void) {
  struct uffdio_api api = {.api = UFFD_API};
  uint8_t* own = map(NULL, 16, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  struct uffdio_register wanted = {.range = {(uint64_t)own, 16 * kPage},
                                   .mode = UFFDIO_REGISTER_MODE_MISSING};
  put(own, 16, 6);
  const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &wanted) == 0;
}

static void look(void) {
  for (size_t i = 0; i < kFilePages; i++) {
    (void)*(volatile char*)(g_zeros + i * kPage);
    (void)*(volatile char*)(g_file + i * kPage);
  }
}

// What was noted later holds.
static void check(void) {
  static uint64_t copy[kWordsPerPage];
  for (int i = 0; i < g_part_count; i++) {
    for (size_t p = 0; p < g_parts[i].pages; p++) {
      uint8_t* at = g_parts[i].at + p * kPage;
      bool is_last = true;
      for (int j = i + 1; j < g_part_count; j++) {
        is_last &= at < g_parts[j].at || at >= g_parts[j].at + g_parts[j].pages * kPage;
      }
      if (!is_last) {
        continue;
      }
      const uint64_t key = g_parts[i].key + p * kPage;
      if (pread(g_mem, copy, kPage, (off_t)(uintptr_t)at) != kPage ||
          (g_parts[i].seed == 0 ? first_nonzero(copy, kPage)
                                : first_wrong(copy, kPage, key, g_parts[i].seed)) >= 0) {
        failed("part %d, page %zu", i, p);
      }
    }
  }
  answer_check();
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: hazards FILE [sparse]");
  }
  g_mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  const int file = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, kFilePages * kPage) != 0) {
    die("%s", argv[1]);
  }
  g_memory = map(NULL, kPages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  madvise(g_memory, kPages * kPage, MADV_NOHUGEPAGE);
  put(g_memory, kPages, 1);
  g_zeros = map(NULL, kFilePages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  madvise(g_zeros, kFilePages * kPage, MADV_NOHUGEPAGE);
  g_file = map(NULL, kFilePages, MAP_PRIVATE, file);
  g_shared = map(NULL, 16, MAP_SHARED | MAP_ANONYMOUS, -1);
  put(g_shared, 16, 1);
  start_child();
  if (argc > 2) {
    const size_t bytes = 1ul << 40;
    uint8_t* sparse = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sparse == MAP_FAILED) {
      die("mmap of 1 TiB");
    }
    for (size_t i = 0; i < 4; i++) {
      put(sparse + i * (bytes / 4) + 5 * kPage, 2, 8);
    }
  }
  printf(
      "{\"ok\":true,\"ready\":true,\"pid\":%d,\"memory\":\"0x%lx\",\"zeros\":\"0x%lx\","
      "\"file\":\"0x%lx\",\"shared\":\"0x%lx\"}\n",
      (int)getpid(), (unsigned long)g_memory, (unsigned long)g_zeros, (unsigned long)g_file,
      (unsigned long)g_shared);
  fflush(stdout);

  char line[64];
  while (next_command(line, sizeof line)) {
    bool ok = true;
    if (strcmp(line, "check") == 0) {
      check();
      continue;
    } else if (strcmp(line, "gift") == 0) {
      ok = gift();
    } else if (strcmp(line, "drop") == 0) {
      drop();
    } else if (strcmp(line, "move") == 0) {
      move();
    } else if (strcmp(line, "hide") == 0) {
      hide();
    } else if (strcmp(line, "shared") == 0) {
      write_by_child();
    } else if (strcmp(line, "look") == 0) {
      look();
    } else if (strcmp(line, "page-out") == 0) {
      ok = madvise(page(48), 8 * kPage, MADV_PAGEOUT) == 0;
    } else if (strcmp(line, "userfault") == 0) {
      ok = open_userfault();
    } else if (strcmp(line, "exec") == 0) {
      execv("/proc/self/exe", argv);
      die("execv");
    } else {
      _exit(0);
    }
    printf("{\"ok\":%s}\n", ok ? "true" : "false");
    fflush(stdout);
  }
  return 0;
}
