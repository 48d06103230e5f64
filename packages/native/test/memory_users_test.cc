#include "kernel/memory_users.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "check.h"
#include "child.h"

namespace sluice::test {

TEST(memory_users) {
  std::vector<char> stack(65536);
  const pid_t user = ::clone([](void*) { return ::pause(); }, stack.data() + stack.size(),
                             CLONE_VM | SIGCHLD, nullptr);
  CHECK(user > 0);
  const Child copy([] {});
  const auto users = memory_users(::getpid());
  const auto of_user = memory_users(user);
  const auto of_copy = memory_users(copy.pid());
  ::kill(user, SIGKILL);
  ::waitpid(user, nullptr, 0);
  CHECK((users == std::vector<pid_t>{user}));
  CHECK((of_user == std::vector<pid_t>{::getpid()}));
  CHECK(of_copy.empty());
  CHECK(memory_users(::getpid()).empty());
}

}  // namespace sluice::test
