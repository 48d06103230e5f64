// Keeps a child that has ended and that it does not wait for.
#include "target.h"

#include <sys/wait.h>

int main(void) {
  pid_t child = fork();
  if (child < 0) {
    die("fork");
  }
  if (child == 0) {
    _exit(5);
  }
  siginfo_t info;
  if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) != 0) {
    die("waitid");
  }
  printf("{\"ready\":true,\"pid\":%d,\"zombie\":%d}\n", (int)getpid(), (int)child);
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      // Nobody has waited for it in our place.
      if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT | WNOHANG) != 0 ||
          info.si_pid != child || info.si_status != 5) {
        failed("the zombie is gone");
      }
      answer_check();
    }
  }
  return 0;
}
