// Holds every kind of mapping that a process can have. Usage: mappings DIRECTORY [hugetlb]
//
// The ready line lists regions. `expect` says what their pages hold, one letter a page, repeated:
//   P  pattern by the region's key        Z  zeros            E  pattern or zeros (lazily freed)
//   F  pattern by the region's file key   H  first half P, second half F
//   T  F up to the end of the file, then zeros
//   X  cannot be read even by the kernel  ?  unpredictable
#include "target.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
enum { kSysMseal = 462, kSysSecret = 447 };

static const uint64_t kSeed = 1;
enum { kTail = 100 };  // bytes of the page where a file ends, for T

struct region {
  const char* name;
  uint8_t* start;
  size_t bytes;
  uint64_t key;
  uint64_t file_key;
  const char* expect;
  bool readable;   // else looked at through /proc/self/mem
  int after_look;  // advice that undoes what a check does to the page table, 0 for none
};

static struct region g_regions[128];
static int g_region_count;
static char g_absent[4096];
static const char* g_dir;
static int g_mem_fd;
static int g_pagemap_fd;

static struct region* region(const char* name, void* start, size_t bytes, const char* expect) {
  if (g_region_count == sizeof g_regions / sizeof *g_regions) {
    die("too many regions");
  }
  struct region* r = &g_regions[g_region_count++];
  *r = (struct region){name, start, bytes, (uint64_t)start, 0, expect, true, 0};
  return r;
}

static void absent(const char* name) {
  size_t used = strlen(g_absent);
  snprintf(g_absent + used, sizeof g_absent - used, "%s{\"name\":\"%s\",\"reason\":\"%s\"}",
           used ? "," : "", name, strerror(errno));
}

static void* map_at(const char* what, void* at, size_t bytes, int prot, int flags, int fd,
                    off_t offset) {
  void* p = mmap(at, bytes, prot, flags, fd, offset);
  if (p == MAP_FAILED) {
    die("mmap for %s", what);
  }
  return p;
}

static void* map(const char* what, size_t bytes, int prot, int flags, int fd, off_t offset) {
  return map_at(what, NULL, bytes, prot, flags, fd, offset);
}

// Anonymous, without huge pages, and not merged with its neighbours.
static void* map_anonymous(const char* what, size_t bytes) {
  void* reserve = map(what, bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* p = map_at(what, (char*)reserve + kPage, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  madvise(p, bytes, MADV_NOHUGEPAGE);
  return p;
}

static size_t pages_of(const struct region* r) { return r->bytes / kPage; }
static char expect_of(const struct region* r, size_t page) {
  return r->expect[page % strlen(r->expect)];
}

// Writes what `expect` says into pages P and H; the others are as the mapping gives them.
static void write_pages(struct region* r) {
  for (size_t i = 0; i < pages_of(r); i++) {
    size_t bytes = expect_of(r, i) == 'P' ? kPage : expect_of(r, i) == 'H' ? kPage / 2 : 0;
    fill(r->start + i * kPage, bytes, r->key + i * kPage, kSeed);
  }
}

static void path_of(char* path, size_t size, const char* name) {
  snprintf(path, size, "%s/%s", g_dir, name);
}

// A file of `bytes`, filled with the pattern of `key`.
static int make_file(const char* name, size_t bytes, uint64_t key) {
  char path[512];
  path_of(path, sizeof path, name);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) {
    die("open %s", path);
  }
  size_t whole = (bytes + kPage - 1) / kPage * kPage;
  char* content = malloc(whole);
  fill(content, whole, key, kSeed);
  if (write(fd, content, bytes) != (ssize_t)bytes) {
    die("write %s", path);
  }
  free(content);
  return fd;
}

static void anonymous_mappings(void) {
  // Data, a hole, a page only read (the zero page), a page of zeros written.
  struct region* r =
      region("anonymous", map_anonymous("anonymous", 4096 * kPage), 4096 * kPage, "PPPPZZPZ");
  write_pages(r);
  for (size_t i = 0; i < 4096; i += 8) {
    (void)*(volatile char*)(r->start + (i + 5) * kPage);
    *(volatile char*)(r->start + (i + 7) * kPage) = 0;
  }
  const struct {
    const char* name;
    int advice;
  } advised[] = {{"dontfork", MADV_DONTFORK},
                 {"wipeonfork", MADV_WIPEONFORK},
                 {"dontdump", MADV_DONTDUMP},
                 {"mergeable", MADV_MERGEABLE},
                 {"cold", MADV_COLD},
                 {"pageout", MADV_PAGEOUT},
                 {"sequential", MADV_SEQUENTIAL}};
  for (size_t i = 0; i < sizeof advised / sizeof *advised; i++) {
    r = region(advised[i].name, map_anonymous(advised[i].name, 16 * kPage), 16 * kPage, "PPPZ");
    write_pages(r);
    if (madvise(r->start, r->bytes, advised[i].advice) != 0) {
      absent(advised[i].name);
    }
  }
  r = region("locked", map_anonymous("locked", 8 * kPage), 8 * kPage, "P");
  write_pages(r);
  if (mlock(r->start, r->bytes) != 0) {
    absent("locked");
  }
  r = region("lazily-freed", map_anonymous("lazily-freed", 32 * kPage), 32 * kPage, "PE");
  write_pages(r);
  for (size_t i = 1; i < 32; i += 2) {
    fill(r->start + i * kPage, kPage, r->key + i * kPage, kSeed);
    madvise(r->start + i * kPage, kPage, MADV_FREE);
  }
  r = region("dropped", map_anonymous("dropped", 16 * kPage), 16 * kPage, "PZ");
  fill(r->start, r->bytes, r->key, kSeed);
  for (size_t i = 1; i < 16; i += 2) {
    madvise(r->start + i * kPage, kPage, MADV_DONTNEED);
  }

  // Moved by mremap: its pages keep the page offsets of their old address.
  char* old = map_anonymous("moved", 16 * kPage);
  fill(old, 16 * kPage, (uint64_t)old, kSeed);
  char* hole = map("moved", 16 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* moved = mremap(old, 16 * kPage, 16 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, hole);
  if (moved == MAP_FAILED) {
    die("mremap");
  }
  region("moved", moved, 16 * kPage, "P")->key = (uint64_t)old;

  r = region("growsdown",
             map("growsdown", 16 * kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_STACK, -1, 0),
             16 * kPage, "ZP");
  write_pages(r);

  void* droppable =
      mmap(NULL, 8 * kPage, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
  if (droppable == MAP_FAILED) {
    absent("droppable");
  } else {
    fill(droppable, 8 * kPage, (uint64_t)droppable, kSeed);
    region("droppable", droppable, 8 * kPage, "E");
  }

  r = region("guarded", map_anonymous("guarded", 16 * kPage), 16 * kPage, "PPPPPXXPPPPPPXZP");
  fill(r->start, r->bytes, r->key, kSeed);
  madvise(r->start + 14 * kPage, kPage, MADV_DONTNEED);
  if (madvise(r->start + 5 * kPage, 2 * kPage, MADV_GUARD_INSTALL) != 0 ||
      madvise(r->start + 13 * kPage, kPage, MADV_GUARD_INSTALL) != 0) {
    absent("guarded");
    r->expect = "PPPPPPPPPPPPPPZP";
  }

  r = region("sealed-vma", map_anonymous("sealed-vma", 8 * kPage), 8 * kPage, "P");
  write_pages(r);
  if (syscall(kSysMseal, r->start, r->bytes, 0) != 0) {
    absent("sealed-vma");
  }
}

static void protections(void) {
  const struct {
    const char* name;
    int prot;
  } kinds[] = {{"prot-none", PROT_NONE},
               {"prot-write", PROT_WRITE},
               {"prot-exec", PROT_EXEC},
               {"prot-read", PROT_READ},
               {"prot-read-exec", PROT_READ | PROT_EXEC}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    struct region* r =
        region(kinds[i].name, map_anonymous(kinds[i].name, 64 * kPage), 64 * kPage, "PPZP");
    write_pages(r);
    if (mprotect(r->start, r->bytes, kinds[i].prot) != 0) {
      die("mprotect for %s", kinds[i].name);
    }
    r->readable = (kinds[i].prot & PROT_READ) != 0;
  }
  region("prot-none-empty",
         map("prot-none-empty", 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1 << 20,
         "Z")
      ->readable = false;

  // A thousand VMAs of one page: neighbours never have the same protection.
  struct region* r = region("thousand", map_anonymous("thousand", 1000 * kPage), 1000 * kPage, "P");
  write_pages(r);
  r->readable = false;
  const int cycle[] = {PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC};
  for (size_t i = 0; i < 1000; i++) {
    if (mprotect(r->start + i * kPage, kPage, cycle[i % 4]) != 0) {
      die("mprotect of page %zu of a thousand", i);
    }
  }
}

static void huge_pages(bool hugetlb) {
  const size_t huge = 2 << 20;
  char* base = map("thp", 9 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* aligned = (char*)(((uintptr_t)base + huge - 1) & ~(huge - 1));
  if (madvise(aligned, 8 * huge, MADV_HUGEPAGE) != 0) {
    absent("thp");
  }
  struct region* r = region("thp", aligned, 6 * huge, "P");
  write_pages(r);
  // One that lost pages and one with a protection changed in its middle.
  r = region("thp-split", aligned + 6 * huge, 2 * huge, NULL);
  static char expect[1025];
  memset(expect, 'P', 1024);
  expect[7] = expect[8] = expect[300] = 'Z';
  r->expect = expect;
  fill(r->start, r->bytes, r->key, kSeed);
  madvise(r->start + 7 * kPage, 2 * kPage, MADV_DONTNEED);
  madvise(r->start + 300 * kPage, kPage, MADV_DONTNEED);
  mprotect(r->start + huge + 100 * kPage, 3 * kPage, PROT_READ);

  if (!hugetlb) {
    return;
  }
  void* p = mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
                 -1, 0);
  if (p == MAP_FAILED) {
    absent("hugetlb");
  } else {
    // The second huge page stays a hole.
    static char half[1025];
    memset(half, 'P', 512);
    memset(half + 512, 'Z', 512);
    write_pages(region("hugetlb", p, 2 * huge, half));
  }
  p = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (p == MAP_FAILED) {
    absent("hugetlb-shared");
  } else {
    write_pages(region("hugetlb-shared", p, huge, "P"));
  }
}

static void file_mappings(void) {
  const size_t bytes = 64 * kPage;
  const int rw = PROT_READ | PROT_WRITE;
  int fd = make_file("file.dat", bytes, 0xf11e0000);
  struct region* r =
      region("file-private", map("file-private", bytes, rw, MAP_PRIVATE, fd, 0), bytes, "FPFHF");
  r->file_key = 0xf11e0000;
  write_pages(r);
  r = region("file-private-offset",
             map("file-private-offset", 16 * kPage, PROT_READ, MAP_PRIVATE, fd, 8 * kPage),
             16 * kPage, "F");
  r->file_key = 0xf11e0000 + 8 * kPage;
  r = region("file-shared-read", map("file-shared-read", bytes, PROT_READ, MAP_SHARED, fd, 0),
             bytes, "F");
  r->file_key = 0xf11e0000;
  close(fd);

  fd = make_file("shared.dat", bytes, 0xf11e1000000);
  r = region("file-shared", map("file-shared", bytes, rw, MAP_SHARED, fd, 0), bytes, "FFFP");
  r->file_key = 0xf11e1000000;
  write_pages(r);
  close(fd);

  // Mapped beyond its end: the last page ends in zeros, those after it cannot be touched.
  fd = make_file("tail.dat", 3 * kPage + kTail, 0xf11e2000000);
  r = region("file-tail", map("file-tail", 6 * kPage, rw, MAP_PRIVATE, fd, 0), 6 * kPage, "FFPTXX");
  r->file_key = 0xf11e2000000;
  write_pages(r);
  close(fd);

  const char* deleted[] = {"deleted-private", "deleted-shared"};
  for (int i = 0; i < 2; i++) {
    uint64_t key = 0xf11e3000000 + (uint64_t)i * 0x1000000;
    fd = make_file(deleted[i], bytes, key);
    char path[512];
    path_of(path, sizeof path, deleted[i]);
    r = region(deleted[i], map(deleted[i], bytes, rw, i == 0 ? MAP_PRIVATE : MAP_SHARED, fd, 0),
               bytes, "FPFFH");
    r->file_key = key;
    write_pages(r);
    unlink(path);
    close(fd);
  }

  // Another file lies now where the mapped one was.
  fd = make_file("replaced.dat", bytes, 0xf11e5000000);
  r = region("replaced", map("replaced", bytes, rw, MAP_PRIVATE, fd, 0), bytes, "FFP");
  r->file_key = 0xf11e5000000;
  write_pages(r);
  close(fd);
  close(make_file("replacement.dat", bytes, 0xf11e6000000));
  char from[512], to[512];
  path_of(from, sizeof from, "replacement.dat");
  path_of(to, sizeof to, "replaced.dat");
  if (rename(from, to) != 0) {
    die("rename");
  }

  int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
  write_pages(region("devzero-private",
                     map("devzero-private", 16 * kPage, rw, MAP_PRIVATE, zero, 0), 16 * kPage,
                     "PZ"));
  write_pages(region("devzero-shared", map("devzero-shared", 16 * kPage, rw, MAP_SHARED, zero, 0),
                     16 * kPage, "PZ"));
  close(zero);
}

static void shared_memory(void) {
  const int rw = PROT_READ | PROT_WRITE;
  struct region* r =
      region("shared", map("shared", 256 * kPage, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
             256 * kPage, "PPPZ");
  write_pages(r);
  // The same object once more; its pages are not in this second page table until they are touched.
  char* alias = mremap(r->start, 0, r->bytes, MREMAP_MAYMOVE);
  if (alias == MAP_FAILED) {
    die("mremap of shared memory");
  }
  struct region* second = region("shared-alias", alias, r->bytes, r->expect);
  second->key = r->key;
  second->after_look = MADV_DONTNEED;

  // In the object, and in no page table.
  r = region("shared-untouched",
             map("shared-untouched", 128 * kPage, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
             128 * kPage, "PPZ");
  write_pages(r);
  madvise(r->start, r->bytes, MADV_DONTNEED);
  r->after_look = MADV_DONTNEED;

  r = region("shared-none", map("shared-none", 32 * kPage, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
             32 * kPage, "PZ");
  write_pages(r);
  mprotect(r->start, r->bytes, PROT_NONE);
  r->readable = false;

  // Mapped in part, twice, overlapping; with holes.
  int fd = memfd_create("sluice-part", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, 64 * kPage) != 0) {
    die("memfd");
  }
  char page[kPage];
  for (size_t i = 0; i < 64; i += 2) {
    fill(page, kPage, 0x3e3fd0000 + i * kPage, kSeed);
    if (pwrite(fd, page, kPage, (off_t)(i * kPage)) != kPage) {
      die("write to memfd");
    }
  }
  r = region("memfd", map("memfd", 32 * kPage, rw, MAP_SHARED, fd, 8 * kPage), 32 * kPage, "FZ");
  r->file_key = 0x3e3fd0000 + 8 * kPage;
  r = region("memfd-overlap",
             map("memfd-overlap", 16 * kPage, PROT_READ, MAP_SHARED, fd, 32 * kPage), 16 * kPage,
             "FZ");
  r->file_key = 0x3e3fd0000 + 32 * kPage;
  r = region("memfd-private", map("memfd-private", 16 * kPage, rw, MAP_PRIVATE, fd, 0), 16 * kPage,
             "FZPZ");
  r->file_key = 0x3e3fd0000;
  write_pages(r);
  // Stays open: a descriptor to something that is mapped, too.

  int sealed = memfd_create("sluice-sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (sealed < 0) {
    die("memfd");
  }
  for (size_t i = 0; i < 16; i++) {
    fill(page, kPage, 0x5ea1ed0000 + i * kPage, kSeed);
    if (write(sealed, page, kPage) != kPage) {
      die("write to memfd");
    }
  }
  if (fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
    absent("memfd-sealed");
  }
  r = region("memfd-sealed", map("memfd-sealed", 16 * kPage, PROT_READ, MAP_SHARED, sealed, 0),
             16 * kPage, "F");
  r->file_key = 0x5ea1ed0000;
  close(sealed);

  // Removed at once, so that it goes with the process.
  int id = shmget(IPC_PRIVATE, 64 * kPage, IPC_CREAT | 0600);
  if (id < 0) {
    absent("sysv");
  } else {
    r = region("sysv", shmat(id, NULL, 0), 64 * kPage, "PPZP");
    void* other = shmat(id, NULL, SHM_RDONLY);
    shmctl(id, IPC_RMID, NULL);
    if (r->start == (void*)-1 || other == (void*)-1) {
      die("shmat");
    }
    write_pages(r);
    region("sysv-read", other, 64 * kPage, "PPZP")->key = r->key;
  }

  char name[64];
  snprintf(name, sizeof name, "/sluice-test-%d", (int)getpid());
  for (int unlinked = 0; unlinked < 2; unlinked++) {
    fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, 64 * kPage) != 0) {
      die("shm_open");
    }
    write_pages(region(unlinked ? "posix-named" : "posix-unlinked",
                       map("posix", 64 * kPage, rw, MAP_SHARED, fd, 0), 64 * kPage, "PZPP"));
    close(fd);
    if (!unlinked) {
      shm_unlink(name);
    }
  }
}

// Mappings that the kernel makes or writes itself.
static void kernel_mappings(void) {
  int fd = (int)syscall(kSysSecret, 0);
  void* p = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, 4 * kPage) == 0) {
    p = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (p == MAP_FAILED) {
    absent("secret");
  } else {
    fill(p, 4 * kPage, (uint64_t)p, kSeed);
    region("secret", p, 4 * kPage, "X");
  }

  aio_context_t aio = 0;
  if (syscall(SYS_io_setup, 16, &aio) != 0) {
    absent("aio-ring");
  } else {
    region("aio-ring", (void*)aio, kPage, "?");
  }

  struct io_uring_params params = {0};
  fd = (int)syscall(SYS_io_uring_setup, 8, &params);
  if (fd < 0) {
    absent("io-uring");
    return;
  }
  size_t bytes =
      (params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe) + kPage - 1) / kPage *
      kPage;
  region("io-uring", map("io-uring", bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), bytes, "?");
}

static void heap(void) {
  char* brk = sbrk(8 << 20);
  if (brk == (void*)-1) {
    die("sbrk");
  }
  char* aligned = (char*)(((uintptr_t)brk + kPage - 1) & ~(uintptr_t)(kPage - 1));
  write_pages(region("brk", aligned, (8 << 20) - kPage, "PPPPPPZP"));
  char* big = malloc(16 << 20);
  aligned = (char*)(((uintptr_t)big + kPage - 1) & ~(uintptr_t)(kPage - 1));
  write_pages(region("malloc", aligned, (16 << 20) - kPage, "P"));
  // Small blocks: only their being there is of use.
  for (int i = 0; i < 20000; i++) {
    uint64_t* block = malloc(24 + (size_t)(i % 7) * 16);
    *block = word_at((uint64_t)block, kSeed);
  }
}

static void sparse(void) {
  const size_t bytes = (size_t)1 << 40;
  char* p =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    absent("sparse");
    return;
  }
  madvise(p, bytes, MADV_NOHUGEPAGE);
  static const char* names[] = {"sparse-first", "sparse-1g", "sparse-100g", "sparse-512g",
                                "sparse-last"};
  const size_t at[] = {0, ((size_t)1 << 30) + kPage, (size_t)100 << 30, ((size_t)512 << 30) - kPage,
                       bytes - kPage};
  for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
    write_pages(region(names[i], p + at[i], kPage, "P"));
  }
}

// Leaves a stack behind that is much larger than what is in use.
__attribute__((noinline)) static uint64_t recurse(int depth, uint64_t value) {
  volatile uint64_t frame[256];
  for (int i = 0; i < 256; i++) {
    frame[i] = word_at((uint64_t)&frame[i], value);
  }
  return depth == 0 ? frame[3] : recurse(depth - 1, frame[7]) ^ frame[255];
}

// A child that shares the pages of this region copy-on-write.
static void forked(void) {
  struct region* r =
      region("shared-with-child", map_anonymous("shared-with-child", 64 * kPage), 64 * kPage, "P");
  write_pages(r);
  int ready[2];
  if (pipe(ready) != 0) {
    die("pipe");
  }
  pid_t child = fork();
  if (child < 0) {
    die("fork");
  }
  if (child == 0) {
    become_quiet_child(ready[1]);
    memset(r->start, 0x5a, 8 * kPage);
    if (write(ready[1], "x", 1) != 1) {
      _exit(1);
    }
    close(ready[1]);
    for (;;) {
      pause();
    }
  }
  close(ready[1]);
  char byte;
  if (read(ready[0], &byte, 1) != 1) {
    die("child did not start");
  }
  close(ready[0]);
  fill(r->start + 16 * kPage, 8 * kPage, r->key + 16 * kPage, kSeed);
}

static bool in_page_table(const void* address) {
  uint64_t entry;
  if (pread(g_pagemap_fd, &entry, 8, (off_t)((uintptr_t)address / kPage * 8)) != 8) {
    die("pagemap");
  }
  return (entry >> 62) != 0;
}

static long wrong_in_page(const struct region* r, const uint8_t* page, char expect, size_t i) {
  uint64_t own = r->key + i * kPage, file = r->file_key + i * kPage;
  long at;
  switch (expect) {
    case 'P':
      return first_wrong(page, kPage, own, kSeed);
    case 'F':
      return first_wrong(page, kPage, file, kSeed);
    case 'Z':
      return first_nonzero(page, kPage);
    case 'E':
      return first_nonzero(page, kPage) < 0 ? -1 : first_wrong(page, kPage, own, kSeed);
    case 'H':
      at = first_wrong(page, kPage / 2, own, kSeed);
      return at >= 0 ? at : first_wrong(page + kPage / 2, kPage / 2, file + kPage / 2, kSeed);
    case 'T':
      at = first_wrong(page, kTail / 8 * 8, file, kSeed);
      return at >= 0 ? at : first_nonzero(page + (kTail + 7) / 8 * 8, kPage - (kTail + 7) / 8 * 8);
    default:
      return -1;
  }
}

static void check_region(const struct region* r) {
  uint8_t copy[kPage];
  for (size_t i = 0; i < pages_of(r); i++) {
    const uint8_t* page = r->start + i * kPage;
    char expect = expect_of(r, i);
    // Looking at a hole would fill it with the zero page.
    if (expect == '?' || expect == 'X' || (expect == 'Z' && !in_page_table(page))) {
      continue;
    }
    if (!r->readable) {
      if (pread(g_mem_fd, copy, kPage, (off_t)(uintptr_t)page) != kPage) {
        failed("%s: page %zu cannot be read", r->name, i);
        continue;
      }
      page = copy;
    }
    long at = wrong_in_page(r, page, expect, i);
    if (at >= 0) {
      failed("%s: page %zu byte %ld", r->name, i, at);
    }
  }
  if (r->after_look != 0) {
    madvise(r->start, r->bytes, r->after_look);
  }
}

static void print_ready(void) {
  printf(
      "{\"ready\":true,\"pid\":%d,\"seed\":%d,\"tail\":%d,\"cleanup\":[\"/dev/shm/"
      "sluice-test-%d\"],"
      "\"absent\":[%s],\"regions\":[",
      (int)getpid(), (int)kSeed, kTail, (int)getpid(), g_absent);
  for (int i = 0; i < g_region_count; i++) {
    const struct region* r = &g_regions[i];
    printf(
        "%s{\"name\":\"%s\",\"start\":\"0x%lx\",\"bytes\":%zu,\"key\":\"0x%lx\","
        "\"fileKey\":\"0x%lx\",\"expect\":\"%s\"}",
        i ? "," : "", r->name, (unsigned long)r->start, r->bytes, (unsigned long)r->key,
        (unsigned long)r->file_key, r->expect);
  }
  printf("]}\n");
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: mappings DIRECTORY [hugetlb]");
  }
  g_dir = argv[1];
  g_mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  g_pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (g_mem_fd < 0 || g_pagemap_fd < 0) {
    die("/proc/self");
  }
  volatile uint64_t sink = recurse(1500, 7);
  (void)sink;
  heap();
  anonymous_mappings();
  protections();
  huge_pages(argc > 2 && strcmp(argv[2], "hugetlb") == 0);
  file_mappings();
  shared_memory();
  kernel_mappings();
  sparse();
  forked();
  // The kernel would collapse what lost pages, and fill it up, whenever it likes.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  print_ready();
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      for (int i = 0; i < g_region_count; i++) {
        check_region(&g_regions[i]);
      }
      answer_check();
    }
  }
  char name[64];
  snprintf(name, sizeof name, "/sluice-test-%d", (int)getpid());
  shm_unlink(name);
  return 0;
}
