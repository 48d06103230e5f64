// Does random things to its address space, and knows at any time what its memory must hold.
// Usage: schedule DIRECTORY
//
// Two workers, each with a slice of the address space of its own, take random steps: they map,
// unmap, move, protect, drop, write and read; the first one forks and starts threads, too, and
// moves the end of the heap. What each page of a slice must hold stands in its record.
//
// Commands, all answered: "run SEED STEPS" lets each worker take so many steps. "free SEED" lets
// them take steps, and the first thread's stack grow, until "pause", after which nothing moves any
// more. "check", while it is paused. The ready line tells where the records are.
#include "target.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum {
  kWorkers = 2,
  kSlicePages = 1024,
  kHuge = 2 << 20,
  kHugePages = kHuge / kPage,
  kFilePages = 256,
  kObjectPages = 64,
  kHeapPages = 48,
  kStackFrames = 48,
};
static const uint64_t kFileSeed = 77;
static const uintptr_t kSliceBase = 0x200000000000;
static const uintptr_t kSliceStride = 1ul << 32;

enum type { kNone, kAnonymous, kShared, kFile, kObject };
enum content { kZeros, kFilled, kFromFile };

struct page {
  uint8_t type;
  uint8_t prot;
  uint8_t lazy;  // given to the kernel with MADV_FREE: may hold zeros instead
  uint8_t content;
  uint16_t patch_at;  // a word that is not as the content says, 0 for none
  uint16_t in_file;   // page of the file or object that is mapped
  uint32_t seed;
  uint32_t step;  // that changed the record last: its number, and the choice in the lowest byte
  uint64_t key;
  uint64_t patch;
};

struct worker {
  uint64_t random;
  uint8_t* slice;
  int index;
  long nap;
  pthread_t thread;
  struct page object[kObjectPages];
  int object_fd;
  uint8_t* heap;
  int heap_pages;
};

static struct page g_pages[kWorkers][kSlicePages];
static struct page g_heap[kHeapPages];
static _Thread_local uint32_t t_step;
static struct worker g_workers[kWorkers];
static int g_file = -1;
static int g_mem = -1;

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_changed = PTHREAD_COND_INITIALIZER;
static int g_working;         // with g_mutex
static long g_order;          // with g_mutex: counts orders to begin
static long g_steps;          // with g_mutex: 0 for as many as come
static uint64_t g_seed;       // with g_mutex
static atomic_bool g_paused;  // ends free running

static uint64_t next(struct worker* w) {
  w->random ^= w->random << 13;
  w->random ^= w->random >> 7;
  w->random ^= w->random << 17;
  return w->random * 0x2545f4914f6cdd1du;
}

static size_t below(struct worker* w, size_t limit) { return (next(w) >> 20) % limit; }

// What a page must hold.

static uint64_t word_of(const struct page* page, size_t i) {
  if (page->patch_at == i && i != 0) {
    return page->patch;
  }
  switch (page->content) {
    case kFilled:
      return word_at(page->key + i * 8, page->seed);
    case kFromFile:
      return word_at((uint64_t)page->in_file * kPage + i * 8, kFileSeed);
    default:
      return 0;
  }
}

// An object's page is the same wherever it is mapped.
static struct page* holder(struct worker* w, struct page* page) {
  return page->type == kObject ? &w->object[page->in_file] : page;
}

static void fill_page(struct page* page, void* at, uint64_t key, uint32_t seed) {
  fill(at, kPage, key, seed);
  page->content = kFilled;
  page->key = key;
  page->seed = seed;
  page->patch_at = 0;
  page->lazy = 0;
  page->step = t_step;
}

static void patch_page(struct page* page, void* at, size_t word, uint64_t value) {
  // One patch a page: it stays where the first one was.
  page->patch_at =
      (uint16_t)(page->patch_at != 0 ? page->patch_at : 1 + word % (kWordsPerPage - 1));
  page->patch = value;
  page->step = t_step;
  ((volatile uint64_t*)at)[page->patch_at] = value;
}

static void check_page(const char* name, size_t index, const struct page* page, const void* at) {
  static uint64_t copy[kWordsPerPage];
  const uint64_t* words = at;
  if ((page->prot & PROT_READ) == 0) {
    if (pread(g_mem, copy, kPage, (off_t)(uintptr_t)at) != kPage) {
      failed("page %zu of %s cannot be read", index, name);
      return;
    }
    words = copy;
  }
  if (page->lazy && first_nonzero(words, kPage) < 0) {
    return;
  }
  for (size_t i = 0; i < kWordsPerPage; i++) {
    if (words[i] != word_of(page, i)) {
      failed(
          "page %zu of %s at %p, type %d content %d lazy %d step %u/%u: word %zu is %lx, not %lx",
          index, name, at, page->type, page->content, page->lazy, page->step >> 8, page->step & 255,
          i, words[i], word_of(page, i));
      return;
    }
  }
}

// Steps. Each picks a place by itself and does nothing where it is not fit.

struct run {
  struct page* pages;
  uint8_t* at;
  size_t start, count;
};

static struct run run_at(struct worker* w, size_t start, size_t count) {
  return (struct run){&g_pages[w->index][start], w->slice + start * kPage, start, count};
}

// Pages of one type and protection around a random one; none if it is not of a type in `types`.
static struct run pick(struct worker* w, unsigned types, size_t most) {
  const struct page* pages = g_pages[w->index];
  const size_t page = below(w, kSlicePages), wanted = 1 + below(w, most);
  if ((types >> pages[page].type & 1) == 0) {
    return run_at(w, page, 0);
  }
  size_t end = page + 1;
  while (end < kSlicePages && end - page < wanted && pages[end].type == pages[page].type &&
         pages[end].prot == pages[page].prot) {
    end++;
  }
  return run_at(w, page, end - page);
}

static struct run any_range(struct worker* w, size_t most) {
  const size_t start = below(w, kSlicePages), count = 1 + below(w, most);
  return run_at(w, start, start + count > kSlicePages ? kSlicePages - start : count);
}

static const unsigned kPrivate = 1 << kAnonymous | 1 << kFile;
static const unsigned kMapped = 1 << kAnonymous | 1 << kFile | 1 << kShared | 1 << kObject;

static void note(struct run r, enum type type, int prot, enum content content, size_t in_file) {
  for (size_t i = 0; i < r.count; i++) {
    r.pages[i] = (struct page){.type = (uint8_t)type,
                               .prot = (uint8_t)prot,
                               .content = (uint8_t)content,
                               .step = t_step,
                               .in_file = (uint16_t)(in_file + i)};
  }
}

static void unmap(struct run r) {
  if (munmap(r.at, r.count * kPage) != 0) {
    die("munmap");
  }
  note(r, kNone, 0, kZeros, 0);
}

static void map(struct worker* w, struct run r, enum type type) {
  const int prot = PROT_READ | PROT_WRITE;
  int flags = MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE, fd = -1;
  size_t in_file = 0;
  if (type == kShared) {
    flags = MAP_FIXED | MAP_ANONYMOUS | MAP_SHARED;
  } else if (type == kFile || type == kObject) {
    const size_t pages = type == kFile ? kFilePages : kObjectPages;
    r.count = r.count > pages ? pages : r.count;
    in_file = below(w, pages - r.count + 1);
    fd = type == kFile ? g_file : w->object_fd;
    flags = MAP_FIXED | (type == kFile ? MAP_PRIVATE : MAP_SHARED);
  }
  if (mmap(r.at, r.count * kPage, prot, flags, fd, (off_t)(in_file * kPage)) == MAP_FAILED) {
    die("mmap");
  }
  note(r, type, prot, type == kFile ? kFromFile : kZeros, in_file);
}

static void write_run(struct worker* w, struct run r, bool whole) {
  if ((r.pages->prot & PROT_WRITE) == 0) {
    return;
  }
  for (size_t i = 0; i < r.count; i++) {
    struct page* page = holder(w, &r.pages[i]);
    uint8_t* at = r.at + i * kPage;
    if (whole || page->lazy) {
      fill_page(page, at, (uint64_t)at, (uint32_t)next(w));
    } else {
      patch_page(page, at, below(w, kWordsPerPage), next(w));
    }
  }
}

static void read_run(struct run r) {
  for (size_t i = 0; i < r.count && (r.pages->prot & PROT_READ) != 0; i++) {
    (void)*(volatile uint64_t*)(r.at + i * kPage);
  }
}

static void protect(struct worker* w, struct run r) {
  static const int kProts[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE,
                               PROT_READ | PROT_EXEC};
  const int prot = kProts[below(w, sizeof kProts / sizeof *kProts)];
  if (mprotect(r.at, r.count * kPage, prot) != 0) {
    die("mprotect");
  }
  for (size_t i = 0; i < r.count; i++) {
    r.pages[i].prot = (uint8_t)prot;
  }
}

static void drop(struct run r) {
  if (madvise(r.at, r.count * kPage, MADV_DONTNEED) != 0) {
    die("MADV_DONTNEED");
  }
  const uint8_t type = r.pages->type;
  for (size_t i = 0; i < r.count && (type == kAnonymous || type == kFile); i++) {
    struct page* page = &r.pages[i];
    page->content = type == kFile ? kFromFile : kZeros;
    page->patch_at = 0;
    page->lazy = 0;
  }
}

static void free_lazily(struct run r) {
  // Before the call: who looks at it frozen must know.
  for (size_t i = 0; i < r.count; i++) {
    r.pages[i].lazy = 1;
  }
  if (madvise(r.at, r.count * kPage, MADV_FREE) != 0) {
    die("MADV_FREE");
  }
}

static bool is_mapped(uint8_t* at) {
  unsigned char in_core;
  return mincore(at, kPage, &in_core) == 0;
}

// The same number of pages, or more of them. With `keep`, the old mapping stays and is empty.
static void move(struct worker* w, struct run from, size_t more, bool keep) {
  struct run to = any_range(w, 1);
  to.count = from.count + more;
  if (to.start + to.count > kSlicePages ||
      (to.start < from.start + from.count && from.start < to.start + to.count)) {
    return;
  }
  // So that a call that fails changes nothing at the new place.
  unmap(to);
  const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0);
  void* moved = mremap(from.at, from.count * kPage, to.count * kPage, flags, to.at);
  if (moved == MAP_FAILED && more != 0) {
    return;  // more than one mapping
  }
  for (size_t i = 0; i < from.count; i++) {
    // A call for several mappings can fail halfway: it does where some of them are watched.
    if (moved == MAP_FAILED && !is_mapped(to.at + i * kPage)) {
      continue;
    }
    to.pages[i] = from.pages[i];
    note(run_at(w, from.start + i, 1), keep ? kAnonymous : kNone, keep ? from.pages[i].prot : 0,
         kZeros, 0);
  }
  const struct run grown = run_at(w, to.start + from.count, more);
  note(grown, kAnonymous, to.pages->prot, kZeros, 0);
}

static void resize(struct worker* w, struct run r) {
  if (below(w, 2) == 0) {
    const size_t left = 1 + below(w, r.count);
    if (mremap(r.at, r.count * kPage, left * kPage, 0) == r.at) {
      note(run_at(w, r.start + left, r.count - left), kNone, 0, kZeros, 0);
    }
    return;
  }
  const size_t more = 1 + below(w, 16), end = r.start + r.count;
  if (end + more <= kSlicePages &&
      mremap(r.at, r.count * kPage, (r.count + more) * kPage, 0) == r.at) {
    note(run_at(w, end, more), kAnonymous, r.pages->prot, kZeros, 0);
  }
}

static void huge(struct worker* w) {
  const size_t start = below(w, kSlicePages / kHugePages) * kHugePages;
  struct run r = run_at(w, start, kHugePages);
  const bool collapse = below(w, 2) == 0;
  map(w, r, kAnonymous);
  madvise(r.at, kHuge, collapse ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  const size_t step = 1 + below(w, 8);
  for (size_t i = below(w, 64); i < kHugePages; i += step) {
    write_run(w, run_at(w, start + i, 1), false);
  }
  if (collapse) {
    madvise(r.at, kHuge, MADV_COLLAPSE);
  }
}

static void advise_huge(struct worker* w) {
  struct run r = any_range(w, kHugePages);
  static const int kAdvice[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE};
  madvise(r.at, r.count * kPage, kAdvice[below(w, 3)]);
}

static void move_heap(struct worker* w) {
  const int pages = (int)below(w, kHeapPages + 1);
  if (syscall(SYS_brk, w->heap + pages * kPage) != (long)(w->heap + pages * kPage)) {
    return;
  }
  for (int i = w->heap_pages; i < pages; i++) {
    g_heap[i] = (struct page){.type = kAnonymous, .prot = PROT_READ | PROT_WRITE};
    if (below(w, 3) != 0) {
      fill_page(&g_heap[i], w->heap + i * kPage, next(w), 5);
    }
  }
  w->heap_pages = pages;
}

static void write_heap(struct worker* w) {
  for (int i = 0; i < w->heap_pages; i++) {
    if (below(w, 4) == 0) {
      patch_page(&g_heap[i], w->heap + i * kPage, below(w, kWordsPerPage), next(w));
    }
  }
}

// The child writes to its copies, and to memory that it shares with its parent.
static void fork_child(struct worker* w) {
  struct run r = pick(w, kMapped, 32);
  const uint32_t seed = (uint32_t)next(w);
  if (r.count == 0 || (r.pages->prot & PROT_WRITE) == 0) {
    return;
  }
  const pid_t child = fork();
  if (child < 0) {
    die("fork");
  }
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, 9);
    for (size_t i = 0; i < r.count; i++) {
      fill(r.at + i * kPage, kPage, (uint64_t)r.at + i * kPage, seed);
    }
    _exit(0);
  }
  // Pages become the parent's alone again while it is at them.
  struct run own = pick(w, kPrivate, 16);
  if (own.count != 0) {
    write_run(w, own, false);
  }
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) {
    die("waitpid, status %x", (unsigned)status);
  }
  for (size_t i = 0; i < r.count && (r.pages->type == kShared || r.pages->type == kObject); i++) {
    struct page* page = holder(w, &r.pages[i]);
    page->content = kFilled;
    page->key = (uint64_t)r.at + i * kPage;
    page->seed = seed;
    page->patch_at = 0;
  }
}

static void* short_life(void* of) {
  struct worker* w = of;
  uint64_t frame[4 * kWordsPerPage];
  fill(frame, sizeof frame, (uint64_t)frame, 3);
  struct run r = pick(w, kPrivate, 8);
  if (r.count != 0) {
    write_run(w, r, true);
  }
  return first_wrong(frame, sizeof frame, (uint64_t)frame, 3) < 0 ? NULL : of;
}

static void start_thread(struct worker* w) {
  pthread_t thread;
  void* result;
  errno = pthread_create(&thread, NULL, short_life, w);
  if (errno != 0 || pthread_join(thread, &result) != 0 || result != NULL) {
    die("a thread");
  }
}

static void step(struct worker* w) {
  struct run r;
  const size_t choice = below(w, 100);
  t_step = (t_step & ~255u) + 256 + (uint32_t)choice;
  switch (choice) {
    case 0 ... 29:
      r = pick(w, kMapped, 8);
      return r.count ? write_run(w, r, false) : (void)0;
    case 30 ... 37:
      r = pick(w, kMapped, 32);
      return r.count ? write_run(w, r, true) : (void)0;
    case 38 ... 45:
      r = pick(w, kMapped, 32);
      return r.count ? read_run(r) : (void)0;
    case 46 ... 53:
      return map(w, any_range(w, 96), kAnonymous);
    case 54 ... 57:
      return map(w, any_range(w, 48), kFile);
    case 58 ... 59:
      return map(w, any_range(w, 24), below(w, 2) ? kShared : kObject);
    case 60 ... 63:
      return unmap(any_range(w, 48));
    case 64 ... 69:
      r = pick(w, kMapped, 48);
      return r.count ? move(w, r, 0, false) : (void)0;
    case 70 ... 71:
      r = pick(w, 1 << kAnonymous, 32);
      return r.count ? move(w, r, below(w, 16), false) : (void)0;
    case 72:
      r = pick(w, 1 << kAnonymous, 32);
      return r.count ? move(w, r, 0, true) : (void)0;
    case 73 ... 75:
      r = pick(w, 1 << kAnonymous, 32);
      return r.count ? resize(w, r) : (void)0;
    case 76 ... 81:
      r = pick(w, kMapped, 48);
      return r.count ? drop(r) : (void)0;
    case 82 ... 83:
      r = pick(w, 1 << kAnonymous, 48);
      return r.count ? free_lazily(r) : (void)0;
    case 84 ... 89:
      r = pick(w, kMapped, 48);
      return r.count ? protect(w, r) : (void)0;
    case 90:
      return huge(w);
    case 91:
      return advise_huge(w);
    case 92 ... 93:
      return w->index == 0 ? move_heap(w) : (void)0;
    case 94 ... 95:
      return w->index == 0 ? write_heap(w) : (void)0;
    case 96:
      return w->index == 0 ? fork_child(w) : (void)0;
    case 97 ... 98:
      return w->index == 0 ? start_thread(w) : (void)0;
    default:
      // Else mappings would get ever smaller.
      if (below(w, 8) == 0) {
        map(w, run_at(w, 0, kSlicePages), kAnonymous);
      }
  }
}

static void* work(void* of) {
  struct worker* w = of;
  long done = 0;
  pthread_mutex_lock(&g_mutex);
  for (;;) {
    while (g_order == done) {
      pthread_cond_wait(&g_changed, &g_mutex);
    }
    done = g_order;
    const long steps = g_steps;
    w->random = word_at(g_seed, 1 + (uint64_t)w->index) | 1;
    pthread_mutex_unlock(&g_mutex);
    w->nap = (long)below(w, 3) * 40000;
    for (long i = 0; steps == 0 ? !atomic_load(&g_paused) : i < steps; i++) {
      step(w);
      if (steps == 0 && w->nap != 0 && below(w, 4) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = w->nap}, NULL);
      }
    }
    pthread_mutex_lock(&g_mutex);
    g_working--;
    pthread_cond_broadcast(&g_changed);
  }
  return NULL;
}

static void order(uint64_t seed, long steps) {
  pthread_mutex_lock(&g_mutex);
  atomic_store(&g_paused, false);
  g_seed = seed;
  g_steps = steps;
  g_working = kWorkers;
  g_order++;
  pthread_cond_broadcast(&g_changed);
  pthread_mutex_unlock(&g_mutex);
}

static void wait_idle(void) {
  pthread_mutex_lock(&g_mutex);
  while (g_working != 0) {
    pthread_cond_wait(&g_changed, &g_mutex);
  }
  pthread_mutex_unlock(&g_mutex);
}

static __attribute__((noinline)) void grow_stack(int frames, uint64_t seed) {
  volatile uint64_t frame[kWordsPerPage];
  fill((void*)frame, sizeof frame, (uint64_t)frame, seed);
  if (frames > 0) {
    grow_stack(frames - 1, seed);
  }
  if (first_wrong((void*)frame, sizeof frame, (uint64_t)frame, seed) >= 0) {
    die("the stack has lost its content");
  }
}

// Until another command comes.
static void run_free(uint64_t seed) {
  struct pollfd input = {.fd = 0, .events = POLLIN};
  order(seed, 0);
  for (uint64_t turn = seed; poll(&input, 1, 1) == 0; turn++) {
    grow_stack((int)(word_at(turn, 9) % kStackFrames), turn);
  }
}

static void check(void) {
  static const char* const kNames[] = {"the first slice", "the second slice"};
  for (int i = 0; i < kWorkers; i++) {
    struct worker* w = &g_workers[i];
    for (size_t page = 0; page < kSlicePages; page++) {
      struct page* record = &g_pages[i][page];
      if (record->type != kNone) {
        struct page expected = *holder(w, record);
        expected.type = record->type;
        expected.prot = record->prot;
        check_page(kNames[i], page, &expected, w->slice + page * kPage);
      }
    }
  }
  for (int i = 0; i < g_workers[0].heap_pages; i++) {
    check_page("the heap", (size_t)i, &g_heap[i], g_workers[0].heap + i * kPage);
  }
  answer_check();
}

static void make_file(char* path, size_t size, const char* directory) {
  static uint64_t content[kWordsPerPage];
  snprintf(path, size, "%s/schedule-XXXXXX", directory);
  g_file = mkostemp(path, O_CLOEXEC);
  for (size_t i = 0; i < kFilePages; i++) {
    fill(content, kPage, i * kPage, kFileSeed);
    if (g_file < 0 || write(g_file, content, kPage) != kPage) {
      die("%s", path);
    }
  }
}

static void say_ok(void) {
  printf("{\"ok\":true}\n");
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    die("usage: schedule DIRECTORY");
  }
  // What is above the heap of now is the first worker's: malloc must not want it for this thread.
  static char input[4096], output[32768];
  setvbuf(stdin, input, _IOFBF, sizeof input);
  setvbuf(stdout, output, _IOFBF, sizeof output);
  static char path[512];
  make_file(path, sizeof path, argv[1]);
  g_mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  for (int i = 0; i < kWorkers; i++) {
    struct worker* w = &g_workers[i];
    w->index = i;
    w->slice = (uint8_t*)(kSliceBase + (uintptr_t)i * kSliceStride);
    w->object_fd = memfd_create("schedule", MFD_CLOEXEC);
    w->random = 1;
    if (w->object_fd < 0 || ftruncate(w->object_fd, kObjectPages * kPage) != 0) {
      die("memfd");
    }
    map(w, run_at(w, 0, kSlicePages), kAnonymous);
    if (pthread_create(&w->thread, NULL, work, w) != 0) {
      die("pthread_create");
    }
  }
  g_workers[0].heap = (uint8_t*)(((uintptr_t)sbrk(0) + kPage - 1) / kPage * kPage);
  printf(
      "{\"ready\":true,\"pid\":%d,\"cleanup\":[\"%s\"],\"records\":\"0x%lx\",\"recordBytes\":%zu,"
      "\"lazyAt\":%zu,\"slices\":[\"0x%lx\",\"0x%lx\"],\"slicePages\":%d}\n",
      (int)getpid(), path, (unsigned long)g_pages, sizeof(struct page), offsetof(struct page, lazy),
      (unsigned long)g_workers[0].slice, (unsigned long)g_workers[1].slice, kSlicePages);
  fflush(stdout);

  char line[128];
  while (next_command(line, sizeof line)) {
    unsigned long seed;
    long steps;
    if (sscanf(line, "run %lu %ld", &seed, &steps) == 2) {
      order(seed, steps);
      wait_idle();
      say_ok();
    } else if (sscanf(line, "free %lu", &seed) == 1) {
      say_ok();
      run_free(seed);
    } else if (strcmp(line, "pause") == 0) {
      atomic_store(&g_paused, true);
      wait_idle();
      say_ok();
    } else if (strcmp(line, "check") == 0) {
      check();
    } else {
      die("unknown command");
    }
  }
  unlink(path);
  return 0;
}
