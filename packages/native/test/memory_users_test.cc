#include "kernel/memory_users.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "tools.h"

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

TEST(memory_users_of_what_has_ended) {
  const auto zombie = [] {
    return Child([] { std::thread([] { ::pause(); }).detach(); },
                 [] { return static_cast<int>(::syscall(SYS_exit, 0)); });
  };
  const Child ended = zombie();
  const Child other = zombie();
  for (const Child* child : {&ended, &other}) {
    wait_until("it is a zombie", [&] { return state_of(child->pid(), child->pid()) == 'Z'; });
  }
  CHECK(memory_users(ended.pid()).empty());
}

}  // namespace sluice::test
