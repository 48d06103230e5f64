// Threads that compute one result together, for rollbacks in the middle. Usage: lockstep THREADS
// ROUNDS
//
//   progress     {"rounds":N}: how many are done
//   result       {"done":...,"hash":"...","worked":N}: N rounds were made, by the count of an
//   eventfd,
//                which no rollback takes back; once
//
// In each round every thread hashes its own memory, with a state that lives in vector registers,
// writes to that memory, and waits for the others.
#include "target.h"

#include <pthread.h>
#include <sys/eventfd.h>

enum { kMostThreads = 16, kWords = 32768, kPasses = 4 };

typedef uint64_t vector __attribute__((vector_size(32)));

static uint64_t g_memory[kMostThreads][kWords] __attribute__((aligned(64)));
static uint64_t g_hashes[kMostThreads];
static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_turn = PTHREAD_COND_INITIALIZER;
static int g_threads;
static int g_waiting;
static long g_rounds;
static long g_last_round;
static uint64_t g_hash;
static int g_worked;

__attribute__((target_clones("avx2", "default"))) static uint64_t hash(uint64_t* words,
                                                                       uint64_t seed) {
  vector state = {seed, seed ^ 1, seed ^ 2, seed ^ 3};
  for (int pass = 0; pass < kPasses; pass++) {
    for (int i = 0; i < kWords; i += 4) {
      vector* at = (vector*)&words[i];
      state = (state ^ *at) * 0x9e3779b97f4a7c15u;
      state ^= state >> 29;
      *at += state;
    }
  }
  return state[0] ^ state[1] ^ state[2] ^ state[3];
}

static void* work(void* argument) {
  const long index = (long)argument;
  for (;;) {
    pthread_mutex_lock(&g_lock);
    const long round = g_rounds;
    const uint64_t seed = g_hash + (uint64_t)index;
    pthread_mutex_unlock(&g_lock);
    const uint64_t mine = hash(g_memory[index], seed);
    const uint64_t one = 1;
    (void)!write(g_worked, &one, sizeof one);
    pthread_mutex_lock(&g_lock);
    g_hashes[index] = mine;
    if (++g_waiting == g_threads) {
      g_waiting = 0;
      for (int i = 0; i < g_threads; i++) {
        g_hash = (g_hash ^ g_hashes[i]) * 0x94d049bb133111ebu;
      }
      g_rounds++;
      pthread_cond_broadcast(&g_turn);
    }
    // It never ends, so that it can be taken back from there too.
    while (g_rounds == round || g_rounds == g_last_round) {
      pthread_cond_wait(&g_turn, &g_lock);
    }
    pthread_mutex_unlock(&g_lock);
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    return 1;
  }
  g_threads = atoi(argv[1]);
  g_last_round = atol(argv[2]);
  g_worked = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  static char input[4096];
  static char output[4096];
  setvbuf(stdin, input, _IOFBF, sizeof input);
  setvbuf(stdout, output, _IOFBF, sizeof output);
  for (int i = 0; i < g_threads; i++) {
    fill(g_memory[i], sizeof g_memory[i], (uint64_t)i << 32, 1);
  }
  for (long i = 0; i < g_threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, (void*)i) != 0) {
      die("pthread_create");
    }
  }
  printf("{\"pid\":%d}\n", getpid());
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    pthread_mutex_lock(&g_lock);
    const long rounds = g_rounds;
    const uint64_t result = g_hash;
    pthread_mutex_unlock(&g_lock);
    if (strcmp(line, "progress") == 0) {
      printf("{\"ok\":true,\"rounds\":%ld}\n", rounds);
    } else {
      uint64_t worked = 0;
      if (rounds == g_last_round && read(g_worked, &worked, sizeof worked) != sizeof worked) {
        die("eventfd");
      }
      printf("{\"ok\":true,\"done\":%s,\"hash\":\"%016lx\",\"worked\":%lu}\n",
             rounds == g_last_round ? "true" : "false", result, worked);
    }
    fflush(stdout);
  }
  return 0;
}
