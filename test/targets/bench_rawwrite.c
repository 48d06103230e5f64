// What the benchmark compares a dump with: as many bytes, written as fast as O_DIRECT can.
// Usage: bench_rawwrite DIR BYTES WRITE_KIBIBYTES THREADS SOURCE_MEBIBYTES
//
// The bytes come from SOURCE_MEBIBYTES of memory, again and again: with 0 from one buffer of the
// size of a write, which then stays in the processor's cache, as nothing does that a dump writes.
//
// Each thread has a file of its own, as each drain has its shard. All threads go together from
// phase to phase: open and preallocate, write, fsync. What a dump does not do counts for nothing
// here: threads are started and memory is filled before, files are removed after. Answers one line
// of JSON with the time of each phase in us. Exit status 3: no O_DIRECT in that directory.
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

enum { kMostThreads = 16, kNoDirectIo = 3 };

typedef struct {
  char path[4096];
  char* source;
  size_t bytes;
  pthread_t thread;
} Writer;

static size_t g_write_bytes;
static size_t g_source_bytes;  // of each thread; whole writes
static Writer g_writers[kMostThreads];
static size_t g_threads;
static pthread_barrier_t g_phase;

static void remove_files(void) {
  for (size_t i = 0; i < g_threads; i++) {
    unlink(g_writers[i].path);
  }
}

static void end_early(int signal) {
  remove_files();
  _exit(128 + signal);
}

__attribute__((noreturn)) static void give_up(const char* call) {
  const int saved = errno;
  remove_files();
  errno = saved;
  if (saved == EINVAL || saved == EOPNOTSUPP) {
    fprintf(stderr, "%s: no O_DIRECT here\n", call);
    _exit(kNoDirectIo);
  }
  die("%s", call);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static void write_all(int fd, const Writer* writer) {
  for (size_t done = 0; done < writer->bytes;) {
    const size_t at = done % g_source_bytes;
    const size_t wanted = least(g_write_bytes, least(writer->bytes - done, g_source_bytes - at));
    const ssize_t written = pwrite(fd, writer->source + at, wanted, (off_t)done);
    if (written > 0) {
      done += (size_t)written;
    } else if (written == 0 || errno != EINTR) {
      give_up("pwrite");
    }
  }
}

static void* run(void* argument) {
  Writer* writer = argument;
  pthread_barrier_wait(&g_phase);
  const int fd = open(writer->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
  if (fd < 0) {
    give_up("open");
  }
  // Not every file system can; the writes then allocate as they go.
  if (fallocate(fd, 0, 0, (off_t)writer->bytes) != 0 && errno != EOPNOTSUPP) {
    give_up("fallocate");
  }
  pthread_barrier_wait(&g_phase);
  write_all(fd, writer);
  pthread_barrier_wait(&g_phase);
  if (fsync(fd) != 0) {
    give_up("fsync");
  }
  pthread_barrier_wait(&g_phase);
  close(fd);
  return NULL;
}

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t next_phase(void) {
  pthread_barrier_wait(&g_phase);
  return now_us();
}

// Huge pages where they are to be had: they spare the kernel work for each write.
static char* make_source(uint64_t seed) {
  char* source =
      mmap(NULL, g_source_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (source == MAP_FAILED) {
    die("mmap");
  }
  madvise(source, g_source_bytes, MADV_HUGEPAGE);
  fill(source, g_source_bytes, 0, seed);
  return source;
}

int main(int argc, char** argv) {
  if (argc != 6) {
    errno = EINVAL;
    die("usage: bench_rawwrite DIR BYTES WRITE_KIBIBYTES THREADS SOURCE_MEBIBYTES");
  }
  // When the benchmark ends early, no file stays.
  signal(SIGTERM, end_early);
  signal(SIGINT, end_early);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const size_t pages = strtoul(argv[2], NULL, 10) / kPage;
  g_write_bytes = strtoul(argv[3], NULL, 10) << 10;
  g_threads = strtoul(argv[4], NULL, 10);
  const size_t source_bytes = strtoul(argv[5], NULL, 10) << 20;
  if (pages == 0 || g_write_bytes == 0 || g_threads == 0 || g_threads > kMostThreads) {
    errno = EINVAL;
    die("bytes, size of a write or number of threads");
  }
  const size_t writes = source_bytes / g_threads / g_write_bytes;
  g_source_bytes = (writes > 0 ? writes : 1) * g_write_bytes;
  pthread_barrier_init(&g_phase, NULL, (unsigned)g_threads + 1);
  for (size_t i = 0; i < g_threads; i++) {
    Writer* writer = &g_writers[i];
    snprintf(writer->path, sizeof writer->path, "%s/raw-%zu", argv[1], i);
    writer->bytes = (pages / g_threads + (i < pages % g_threads)) * kPage;
    writer->source = make_source(i);
    if (pthread_create(&writer->thread, NULL, run, writer) != 0) {
      die("pthread_create");
    }
  }
  const uint64_t start = next_phase();
  const uint64_t opened = next_phase();
  const uint64_t written = next_phase();
  const uint64_t synced = next_phase();
  for (size_t i = 0; i < g_threads; i++) {
    pthread_join(g_writers[i].thread, NULL);
  }
  remove_files();
  printf("{\"bytes\":%zu,\"openUs\":%lu,\"writeUs\":%lu,\"syncUs\":%lu,\"totalUs\":%lu}\n",
         pages * kPage, opened - start, written - opened, synced - written, synced - start);
  return 0;
}
