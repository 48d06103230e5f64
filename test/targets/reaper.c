// Reaps whatever child there is, of any kind, as soon as it can. Usage: reaper
//
// One thread has children that end at once, another waits for any (__WALL). One child lives as long
// as the target, so that there always is one to be waited for. "check" fails if a child of the
// target was not reaped once, with what it exited with; "strangers" tells how many others were.
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { kExitCode = 7, kMostPids = 1 << 22 };

// Of each pid: 1 is its own child, and not reaped yet.
static atomic_uchar g_own[kMostPids];
static atomic_int g_forked, g_reaped, g_strangers, g_wrong;

static void* have_children(void* unused) {
  (void)unused;
  for (;;) {
    // It is its own before it can be reaped: it waits for its parent to have noted that.
    int noted[2];
    char byte = 0;
    if (pipe(noted) != 0) {
      die("pipe");
    }
    const pid_t child = fork();
    if (child < 0) {
      die("fork");
    }
    if (child == 0) {
      _exit(read(noted[0], &byte, 1) == 1 ? kExitCode : 1);
    }
    atomic_store(&g_own[child], 1);
    atomic_fetch_add(&g_forked, 1);
    (void)!write(noted[1], &byte, 1);
    close(noted[0]);
    close(noted[1]);
    usleep(1000);
  }
  return NULL;
}

static void* reap_any(void* unused) {
  (void)unused;
  for (;;) {
    int status = 0;
    const pid_t child = waitpid(-1, &status, __WALL);
    if (child < 0) {
      // A stop by a dumper must not be seen as an interruption; and one child always lives.
      atomic_fetch_add(&g_wrong, 1);
    } else if (atomic_exchange(&g_own[child], 0) == 0) {
      atomic_fetch_add(&g_strangers, 1);
    } else {
      atomic_fetch_add(&g_wrong, WIFEXITED(status) && WEXITSTATUS(status) == kExitCode ? 0 : 1);
      atomic_fetch_add(&g_reaped, 1);
    }
  }
  return NULL;
}

static void check(void) {
  const int enough = atomic_load(&g_forked);
  while (atomic_load(&g_reaped) < enough) {
    usleep(1000);
  }
  if (atomic_load(&g_wrong) != 0) {
    failed("%d waits went wrong", atomic_load(&g_wrong));
  }
  answer_check();
}

int main(void) {
  pthread_t threads[2];
  if (fork() == 0) {
    become_quiet_child(-1);
    for (;;) {
      pause();
    }
  }
  if (pthread_create(&threads[0], NULL, have_children, NULL) != 0 ||
      pthread_create(&threads[1], NULL, reap_any, NULL) != 0) {
    die("pthread_create");
  }
  printf("{\"ready\":true,\"pid\":%d}\n", (int)getpid());
  fflush(stdout);
  for (char line[64]; next_command(line, sizeof line); fflush(stdout)) {
    if (strcmp(line, "check") == 0) {
      check();
      continue;
    }
    printf("{\"ok\":true,\"strangers\":%d}\n", atomic_load(&g_strangers));
  }
  return 0;
}
