// A target that does not stand still. Usage: churn MODE [MICROSECONDS]
//
//   exit            ends MICROSECONDS after the command "go"
//   exec            the command "go" makes it execute itself MICROSECONDS later; `turn` counts on
//   exec-loop       executes itself every MICROSECONDS; says nothing after "ready", the variable
//                   SLUICE_CHURN_TURN in its environment counts
//   exec-thread     like exec, but by a thread that is not the first
//   fork            forks a child that ends at once and waits for it, every MICROSECONDS
//   vfork           the same with vfork
//   threads         starts a thread that ends at once and joins it, every MICROSECONDS
//   maps            maps, writes and unmaps, every MICROSECONDS
//   leaderless      the first thread ends, another goes on
//   vfork-wait      one thread waits in vfork for a child that never ends: it cannot be stopped
//   still           nothing of that: a small target for many dumps
// All hold some memory whose content "check" compares.
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { kMemory = 8 << 20, kSmallMemory = 64 << 10 };

static uint64_t* g_memory;
static size_t g_bytes;
static long g_microseconds;
static char** g_argv;
static atomic_ulong g_turns;
static atomic_bool g_stop;

static void pause_us(long microseconds) {
  struct timespec end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_nsec += microseconds * 1000;
  end.tv_sec += end.tv_nsec / 1000000000;
  end.tv_nsec %= 1000000000;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR) {
  }
}

static void must_end_well(pid_t child) {
  int status = 0;
  pid_t waited = waitpid(child, &status, 0);
  if (waited != child || status != 7 << 8) {
    die("child %d: waited %d status %x", (int)child, (int)waited, (unsigned)status);
  }
}

static void fork_turn(void) {
  pid_t child = fork();
  if (child == 0) {
    // Its own copy must be right, too.
    _exit(first_wrong(g_memory, kPage, (uint64_t)g_memory, 1) < 0 ? 7 : 8);
  }
  if (child < 0) {
    die("fork");
  }
  must_end_well(child);
}

static void vfork_turn(void) {
  pid_t child = vfork();
  if (child == 0) {
    _exit(7);
  }
  if (child < 0) {
    die("vfork");
  }
  must_end_well(child);
}

static void* add_one(void* argument) { return (char*)argument + 1; }

static void thread_turn(void) {
  pthread_t thread;
  void* result = NULL;
  int number = pthread_create(&thread, NULL, add_one, (void*)41);
  if (number != 0) {
    errno = number;
    die("pthread_create");
  }
  pthread_join(thread, &result);
  if (result != (void*)42) {
    die("a thread returned %p", result);
  }
}

static void map_turn(void) {
  const size_t bytes = 64 * kPage;
  char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    die("mmap");
  }
  fill(p, bytes, (uint64_t)p, 2);
  mprotect(p + 16 * kPage, 8 * kPage, PROT_READ);
  char* moved = mremap(p, 16 * kPage, 32 * kPage, MREMAP_MAYMOVE);
  if (moved == MAP_FAILED || first_wrong(moved, 16 * kPage, (uint64_t)p, 2) >= 0) {
    die("mremap");
  }
  if (first_wrong(p + 16 * kPage, bytes - 16 * kPage, (uint64_t)p + 16 * kPage, 2) >= 0) {
    die("a mapping lost its content");
  }
  munmap(moved, 32 * kPage);
  munmap(p + 16 * kPage, bytes - 16 * kPage);
}

static void* repeat(void* turn) {
  while (!atomic_load(&g_stop)) {
    ((void (*)(void))turn)();
    atomic_fetch_add(&g_turns, 1);
    pause_us(g_microseconds);
  }
  return NULL;
}

static void execute_itself(void) {
  char turn[32];
  snprintf(turn, sizeof turn, "%lu", atomic_load(&g_turns) + 1);
  setenv("SLUICE_CHURN_TURN", turn, 1);
  execv("/proc/self/exe", g_argv);
  die("exec");
}

static void* execute_later(void* unused) {
  (void)unused;
  pause_us(g_microseconds);
  execute_itself();
  return NULL;
}

// An exec from a thread or a timer must not lose what stands on standard input, so nothing here
// reads ahead.
static bool next_line(char* line, size_t size) {
  size_t used = 0;
  for (;;) {
    ssize_t n = read(0, line + used, 1);
    if (n <= 0) {
      if (n < 0) {
        die("standard input cannot be read");
      }
      return false;
    }
    if (line[used] == '\n' || used + 2 == size) {
      line[used] = 0;
      return strcmp(line, "exit") != 0;
    }
    used++;
  }
}

static void print_ready(const char* mode) {
  printf(
      "{\"ready\":true,\"pid\":%d,\"mode\":\"%s\",\"turn\":%lu,\"memory\":\"0x%lx\",\"bytes\":%zu}"
      "\n",
      (int)getpid(), mode, atomic_load(&g_turns), (unsigned long)g_memory, g_bytes);
  fflush(stdout);
}

static bool g_repeats;

static void obey(const char* mode) {
  char line[64];
  while (next_line(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      long at = first_wrong(g_memory, g_bytes, (uint64_t)g_memory, 1);
      if (at >= 0) {
        failed("memory is wrong at %ld", at);
      }
      unsigned long turns = atomic_load(&g_turns);
      while (g_repeats && atomic_load(&g_turns) == turns) {
        sched_yield();
      }
      answer_check();
    } else if (strcmp(line, "go") == 0 && strcmp(mode, "exit") == 0) {
      pause_us(g_microseconds);
      _exit(0);
    } else if (strcmp(line, "go") == 0 && strcmp(mode, "exec") == 0) {
      execute_later(NULL);
    } else if (strcmp(line, "go") == 0 && strcmp(mode, "exec-thread") == 0) {
      pthread_t thread;
      pthread_create(&thread, NULL, execute_later, NULL);
    }
  }
}

static pthread_t g_leader;

static void* without_leader(void* mode) {
  pthread_join(g_leader, NULL);
  // Until the kernel has let go of what the first thread had, it is no zombie yet.
  char path[64], stat[256];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
  for (;;) {
    FILE* file = fopen(path, "re");
    if (file == NULL || fgets(stat, sizeof stat, file) == NULL) {
      die("%s", path);
    }
    fclose(file);
    const char* state = strrchr(stat, ')');
    if (state != NULL && state[2] == 'Z') {
      break;
    }
    sched_yield();
  }
  print_ready(mode);
  obey(mode);
  _exit(0);
}

static atomic_bool g_in_vfork;

static void* wait_in_vfork(void* unused) {
  (void)unused;
  pid_t child = vfork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    atomic_store(&g_in_vfork, true);  // the memory is the parent's
    for (;;) {
      syscall(SYS_pause);
    }
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: churn MODE [MICROSECONDS]");
  }
  const char* mode = argv[1];
  g_argv = argv;
  g_microseconds = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
  const char* turn = getenv("SLUICE_CHURN_TURN");
  atomic_store(&g_turns, turn == NULL ? 0 : strtoul(turn, NULL, 10));
  g_bytes = strcmp(mode, "still") == 0 || strcmp(mode, "exec-loop") == 0 ? kSmallMemory : kMemory;
  g_memory = mmap(NULL, g_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (g_memory == MAP_FAILED) {
    die("mmap");
  }
  fill(g_memory, g_bytes, (uint64_t)g_memory, 1);

  const struct {
    const char* mode;
    void (*turn)(void);
  } repeating[] = {
      {"fork", fork_turn}, {"vfork", vfork_turn}, {"threads", thread_turn}, {"maps", map_turn}};
  pthread_t thread;
  for (size_t i = 0; i < sizeof repeating / sizeof *repeating; i++) {
    if (strcmp(mode, repeating[i].mode) == 0) {
      g_repeats = true;
      pthread_create(&thread, NULL, repeat, (void*)repeating[i].turn);
    }
  }
  if (strcmp(mode, "leaderless") == 0) {
    g_leader = pthread_self();
    pthread_create(&thread, NULL, without_leader, (void*)mode);
    pthread_exit(NULL);
  }
  if (strcmp(mode, "vfork-wait") == 0) {
    pthread_create(&thread, NULL, wait_in_vfork, NULL);
    while (!atomic_load(&g_in_vfork)) {
      sched_yield();
    }
  }
  // In a loop only the first says that it is ready.
  if (turn == NULL || strcmp(mode, "exec-loop") != 0) {
    print_ready(mode);
  }
  if (strcmp(mode, "exec-loop") == 0) {
    pthread_create(&thread, NULL, execute_later, NULL);
  }
  obey(mode);
  if (g_repeats) {
    atomic_store(&g_stop, true);
    pthread_join(thread, NULL);
  }
  _exit(0);
}
