// The program that rollback.ts takes back again and again: threads that estimate pi. Asked by a line,
// it says how far they are, and waits for what they come to. A thread that has ended could not be taken
// back, so they stay.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

enum { THREADS = 2, STEPS = 100 * 1000 * 1000 };

static volatile long steps_done[THREADS];
static long hits[THREADS];
static pthread_barrier_t all_done;

static void *estimate(void *argument) {
  const long index = (long)argument;
  uint64_t random = 88172645463325252u + (uint64_t)index;
  long inside = 0;
  for (long step = 0; step < STEPS; step++) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    const double x = (double)(uint32_t)random / UINT32_MAX;
    const double y = (double)(random >> 32) / UINT32_MAX;
    inside += x * x + y * y < 1;
    steps_done[index] = step + 1;
  }
  hits[index] = inside;
  pthread_barrier_wait(&all_done);
  for (;;) {
    pause();
  }
  return NULL;
}

int main(void) {
  pthread_barrier_init(&all_done, NULL, THREADS + 1);
  for (long i = 0; i < THREADS; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, estimate, (void *)i);
  }
  printf("started\n");
  fflush(stdout);
  if (getchar() != EOF) {
    long all_steps = 0;
    long all_hits = 0;
    for (int i = 0; i < THREADS; i++) {
      all_steps += steps_done[i];
    }
    pthread_barrier_wait(&all_done);
    for (int i = 0; i < THREADS; i++) {
      all_hits += hits[i];
    }
    printf("%ld %.12f\n", 100 * all_steps / ((long)THREADS * STEPS),
           4.0 * (double)all_hits / ((double)THREADS * STEPS));
    fflush(stdout);
    getchar();
  }
  return 0;
}
