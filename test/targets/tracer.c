// Traces a process as a debugger does. Usage: tracer PID
//
// Attaches to all threads without stopping them. Command "interrupt N": stops all of them and lets
// them go on, N times, by plain ptrace, with none of the care that Sluice takes: what a target
// must notice.
#include "target.h"

#include <dirent.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { kMaxThreads = 512 };
static pid_t g_threads[kMaxThreads];
static int g_pending[kMaxThreads];
static int g_count;

static void stop_all(void) {
  for (int i = 0; i < g_count; i++) {
    if (ptrace(PTRACE_INTERRUPT, g_threads[i], 0, 0) != 0) {
      die("interrupt %d", (int)g_threads[i]);
    }
  }
  for (int i = 0; i < g_count; i++) {
    int status;
    if (waitpid(g_threads[i], &status, __WALL) != g_threads[i] || !WIFSTOPPED(status)) {
      die("wait for %d", (int)g_threads[i]);
    }
    // A signal that came first is passed on.
    g_pending[i] = status >> 16 ? 0 : WSTOPSIG(status);
  }
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: tracer PID");
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/task", argv[1]);
  DIR* directory = opendir(path);
  if (directory == NULL) {
    die("%s", path);
  }
  for (struct dirent* entry; (entry = readdir(directory)) != NULL && g_count < kMaxThreads;) {
    if (entry->d_name[0] != '.') {
      g_threads[g_count] = atoi(entry->d_name);
      if (ptrace(PTRACE_SEIZE, g_threads[g_count], 0, 0) != 0) {
        die("seize %s", entry->d_name);
      }
      g_count++;
    }
  }
  closedir(directory);
  printf("{\"ready\":true,\"pid\":%d,\"threads\":%d}\n", (int)getpid(), g_count);
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    int times = 0;
    if (sscanf(line, "interrupt %d", &times) == 1) {
      for (int turn = 0; turn < times; turn++) {
        stop_all();
        for (int i = 0; i < g_count; i++) {
          ptrace(PTRACE_CONT, g_threads[i], 0, g_pending[i]);
        }
      }
      printf("{\"ok\":true}\n");
      fflush(stdout);
    }
  }
  stop_all();
  for (int i = 0; i < g_count; i++) {
    ptrace(PTRACE_DETACH, g_threads[i], 0, g_pending[i]);
  }
  return 0;
}
