#include "kernel/proc_task.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "check.h"
#include "child.h"
#include "kernel/proc_file.h"

namespace sluice::test {

TEST(task_threads) {
  std::atomic<pid_t> tid{0};
  std::atomic<bool> done{false};
  std::thread thread([&] {
    ::prctl(PR_SET_NAME, "a\nthread");
    tid = static_cast<pid_t>(::syscall(SYS_gettid));
    done.wait(false);
  });
  while (tid == 0) {
    std::this_thread::yield();
  }
  const auto tids = list_threads(::getpid());
  const auto name = thread_name(::getpid(), tid);
  done = true;
  done.notify_all();
  thread.join();
  CHECK(tids.has_value());
  CHECK(std::is_sorted(tids->begin(), tids->end()));
  CHECK(std::find(tids->begin(), tids->end(), ::getpid()) != tids->end());
  CHECK(std::find(tids->begin(), tids->end(), tid) != tids->end());
  CHECK(name == "a\nthread");
}

TEST(task_children) {
  const Child child([] {});
  const auto children = list_children(::getpid(), ::getpid());
  if (!children) {
    SKIP("kernel without CONFIG_PROC_CHILDREN");
  }
  CHECK((*children == std::vector<pid_t>{child.pid()}));
  CHECK(list_children(child.pid(), child.pid())->empty());
}

TEST(task_children_text) {
  CHECK(parse_children("").empty());
  CHECK((parse_children("1 22 333 ") == std::vector<pid_t>{1, 22, 333}));
  for (const char* bad : {" ", "1", "1  2 ", "x ", "1 x ", "-1 ", "4294967296 ", "1\n"}) {
    CHECK_THROWS("SYSTEM", parse_children(bad));
  }
}

TEST(task_command_line_text) {
  using Arguments = std::vector<std::string>;
  CHECK(parse_command_line("") == Arguments{});
  CHECK((parse_command_line({"a\0b\0", 4}) == Arguments{"a", "b"}));
  CHECK((parse_command_line({"a\0\0", 3}) == Arguments{"a", ""}));
  CHECK((parse_command_line("overwritten, no end") == Arguments{"overwritten, no end"}));
}

TEST(task_command_line_and_executable) {
  const Child child([] {});
  const auto arguments = command_line(child.pid());
  CHECK(arguments.has_value());
  CHECK(!arguments->empty());
  CHECK(*arguments == *command_line(::getpid()));
  CHECK(executable(child.pid()) == read_proc_link(::getpid(), "exe"));
}

TEST(task_zombie) {
  const Child child([] {});
  ::kill(child.pid(), SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
  CHECK((*list_threads(child.pid()) == std::vector<pid_t>{child.pid()}));
  CHECK(command_line(child.pid())->empty());
  CHECK(!executable(child.pid()));
}

TEST(task_gone) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!list_threads(pid));
  CHECK(!list_children(pid, pid));
  CHECK(!thread_name(pid, pid));
  CHECK(!command_line(pid));
  CHECK(!executable(pid));
}

}  // namespace sluice::test
