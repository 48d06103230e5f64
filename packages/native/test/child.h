// Child processes for a test to look at or to work on. Killed and reaped at the end of their scope.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

namespace sluice::test {

class Child {
 public:
  // Runs `body` in the child. It is ready when `body` has returned; from then on it sleeps.
  template <typename Body>
  explicit Child(Body body)
      : Child(body, [] {
          for (;;) {
            ::pause();
          }
          return 0;
        }) {}

  // The same, but then it runs `after`, and exits with what that returns.
  template <typename Body, typename After>
  Child(Body body, After after) {
    int ready[2];
    CHECK(::pipe(ready) == 0);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == parent) {
        ::_exit(run(body, after, ready));
      }
      ::_exit(0);
    }
    ::close(ready[1]);
    char byte = 0;
    const ssize_t got = pid_ > 0 ? ::read(ready[0], &byte, 1) : -1;
    ::close(ready[0]);
    if (got != 1) {
      end();
      throw Failure{__FILE__, __LINE__, "the child did not get ready"};
    }
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }

  // Kills and reaps it.
  void end() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, __WALL);
      pid_ = 0;
    }
  }

  // Waits for its own end and reaps it. What it exited with; 1000 more than the signal that killed
  // it, if one did.
  int finish() {
    int status = 0;
    const pid_t got = ::waitpid(pid_, &status, __WALL);
    CHECK_EQ(got, pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  // A failed check must not get out of the child into the harness.
  template <typename Body, typename After>
  static int run(Body body, After after, const int* ready) {
    try {
      body();
      ::close(ready[0]);
      (void)!::write(ready[1], "r", 1);
      return after();
    } catch (...) {
      return 255;
    }
  }

  pid_t pid_ = 0;
};

// Runs `body` in a child and returns what it returned, 0 to 250; 255 if it threw or was killed.
template <typename Body>
int run_in_child(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int result = 255;
    try {
      result = body();
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  if (::waitpid(pid, &status, __WALL) != pid || !WIFEXITED(status)) {
    return 255;
  }
  return WEXITSTATUS(status);
}

}  // namespace sluice::test
