// A target that is killed if it makes a system call it did not name beforehand.
// Usage: seccomp MODE
//   process  filter on the whole process        thread  filter on one thread of two
//   polite   on the whole process; other calls fail with EPERM instead
//   strict   SECCOMP_MODE_STRICT: only read, write, exit and sigreturn
#include "filter.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { kMemory = 4 << 20 };
static char* g_memory;

static void install_filter(uint32_t otherwise) {
  static const uint32_t allowed[] = {SYS_read,       SYS_write,           SYS_exit,
                                     SYS_exit_group, SYS_rt_sigreturn,    SYS_futex,
                                     SYS_nanosleep,  SYS_clock_nanosleep, SYS_restart_syscall};
  enum { kCount = sizeof allowed / sizeof *allowed };
  filter_calls(allowed, kCount, SECCOMP_RET_ALLOW, otherwise, 0);
}

static void say(const char* text) {
  size_t bytes = strlen(text);
  if (write(1, text, bytes) != (ssize_t)bytes) {
    syscall(SYS_exit, 1);
  }
}

// Only calls that every mode allows.
static void obey(void) {
  char line[16];
  size_t used = 0;
  for (;;) {
    ssize_t n = read(0, line + used, 1);
    if (n < 0) {
      say("{\"ok\":false,\"failed\":[\"standard input cannot be read\"]}\n");
    }
    if (n <= 0) {
      return;
    }
    if (line[used] != '\n') {
      used = used + 1 < sizeof line ? used + 1 : used;
      continue;
    }
    line[used] = 0;
    used = 0;
    if (strcmp(line, "exit") == 0) {
      return;
    }
    if (strcmp(line, "check") == 0) {
      say(first_wrong(g_memory, kMemory, (uint64_t)g_memory, 1) < 0
              ? "{\"ok\":true}\n"
              : "{\"ok\":false,\"failed\":[\"memory\"]}\n");
    }
  }
}

static atomic_int g_filtered;

static void* filtered_thread(void* unused) {
  (void)unused;
  install_filter(SECCOMP_RET_KILL_PROCESS);
  atomic_store(&g_filtered, 1);
  // Never woken: it ends with the process.
  for (;;) {
    syscall(SYS_futex, &g_filtered, 0, 1, NULL, NULL, 0);
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: seccomp MODE");
  }
  g_memory = mmap(NULL, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (g_memory == MAP_FAILED) {
    die("mmap");
  }
  fill(g_memory, kMemory, (uint64_t)g_memory, 1);
  char ready[256];
  snprintf(ready, sizeof ready,
           "{\"ready\":true,\"pid\":%d,\"mode\":\"%s\",\"memory\":\"0x%lx\",\"bytes\":%d}\n",
           (int)getpid(), argv[1], (unsigned long)g_memory, kMemory);
  if (strcmp(argv[1], "process") == 0) {
    install_filter(SECCOMP_RET_KILL_PROCESS);
  } else if (strcmp(argv[1], "polite") == 0) {
    install_filter(SECCOMP_RET_ERRNO | EPERM);
  } else if (strcmp(argv[1], "thread") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, filtered_thread, NULL);
    while (atomic_load(&g_filtered) == 0) {
      usleep(1000);
    }
  } else if (strcmp(argv[1], "strict") == 0) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) {
      die("seccomp");
    }
  } else {
    die("unknown mode %s", argv[1]);
  }
  say(ready);
  obey();
  // The strict mode knows no exit_group, and has one thread.
  syscall(strcmp(argv[1], "strict") == 0 ? SYS_exit : SYS_exit_group, 0);
}
