// Very many threads, of which two thirds come and go all the time. Usage: crowd THREADS
//
// Each has a page for its lifetime, which holds its ticket in every word, and looks at the end
// whether it still does. The first third lives as long as the target, all others for 0.2 s on
// average.
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

enum { kStackBytes = 64 << 10, kLifeMs = 200, kMostThreads = 4096 };

static uint64_t* g_pages;
static int g_threads;
static int g_free[kMostThreads];
static int g_free_count;
static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_freed = PTHREAD_COND_INITIALIZER;
static atomic_ulong g_ended;
static atomic_int g_wrong;

static void* live(void* argument) {
  const int index = (int)(intptr_t)argument;
  static atomic_ulong tickets;
  const uint64_t ticket = atomic_fetch_add(&tickets, 1) + 1;
  volatile uint64_t* page = g_pages + (size_t)index * kWordsPerPage;
  for (int i = 0; i < kWordsPerPage; i++) {
    page[i] = ticket;
  }
  while (ticket <= (uint64_t)g_threads / 3) {
    pause();
  }
  const struct timespec life = {0, (long)(1 + ticket % (2 * kLifeMs)) * 1000000};
  clock_nanosleep(CLOCK_MONOTONIC, 0, &life, NULL);
  for (int i = 0; i < kWordsPerPage; i++) {
    if (page[i] != ticket) {
      atomic_fetch_add(&g_wrong, 1);
      break;
    }
  }
  atomic_fetch_add(&g_ended, 1);
  pthread_mutex_lock(&g_lock);
  g_free[g_free_count++] = index;
  pthread_cond_signal(&g_freed);
  pthread_mutex_unlock(&g_lock);
  return NULL;
}

static void* replace(void* unused) {
  (void)unused;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  for (;;) {
    pthread_mutex_lock(&g_lock);
    while (g_free_count == 0) {
      pthread_cond_wait(&g_freed, &g_lock);
    }
    const int index = g_free[--g_free_count];
    pthread_mutex_unlock(&g_lock);
    pthread_t thread;
    if (pthread_create(&thread, &attributes, live, (void*)(intptr_t)index) != 0) {
      die("pthread_create");
    }
  }
  return NULL;
}

// As many as there are must have ended since: nobody was lost.
static void check(void) {
  const uint64_t before = atomic_load(&g_ended);
  while (atomic_load(&g_ended) < before + (uint64_t)g_threads) {
    usleep(1000);
  }
  if (atomic_load(&g_wrong) != 0) {
    failed("%d threads found wrong memory", atomic_load(&g_wrong));
  }
  answer_check();
}

int main(int argc, char** argv) {
  g_threads = argc > 1 ? atoi(argv[1]) : 0;
  if (g_threads < 1 || g_threads > kMostThreads) {
    die("usage: crowd THREADS");
  }
  g_pages = mmap(NULL, (size_t)g_threads * kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (g_pages == MAP_FAILED) {
    die("mmap");
  }
  for (int i = 0; i < g_threads; i++) {
    g_free[g_free_count++] = i;
  }
  pthread_t thread;
  if (pthread_create(&thread, NULL, replace, NULL) != 0) {
    die("pthread_create");
  }
  while (atomic_load(&g_ended) == 0) {
    usleep(1000);
  }
  printf("{\"ready\":true,\"pid\":%d}\n", (int)getpid());
  fflush(stdout);
  for (char line[64]; next_command(line, sizeof line);) {
    if (strcmp(line, "check") == 0) {
      check();
    }
  }
  return 0;
}
