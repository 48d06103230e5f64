#include "target/helper_remote.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "check.h"
#include "child.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"
#include "rig.h"
#include "seccomp_filter.h"
#include "tools.h"

namespace sluice::test {
namespace {

// A whole life of a helper, with `use` in the middle of it, after which the target is as it was.
template <typename Use>
void live(pid_t pid, Use use, DespiteFilter despite = DespiteFilter::kNo) {
  const auto rests = [pid] { return state_of(pid, pid) == 'S' || state_of(pid, pid) == 'T'; };
  wait_until("it rests", rests);
  const std::string before = snapshot(pid);
  Rig rig(pid, despite);
  rig.task.run([&] {
    std::unique_ptr<Helper> helper = rig.start_helper();
    CHECK_EQ(status_line(pid, "TracerPid"), "0");  // no thread is held any longer
    use(*helper);
    std::vector<HelperRemains> remains = {helper->end()};
    CHECK(!remains[0].scratch);
    helper.reset();
    const auto thread = rig.stop_thread();
    CHECK_EQ(remove_remains(thread.get(), remains).size(), 0u);
  });
  wait_until("it rests again", rests);
  check_unchanged(pid, before);
}

int count_fds(pid_t pid) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(proc_path(pid, "fd"))) {
    ++count;
  }
  return count;
}

// A page of the target comes out of a pipe.
void check_splices(Helper& helper, void* page, const char* text) {
  const HelperPipe pipe = helper.make_pipe();
  const iovec vector{page, 4096};
  CHECK_EQ(helper.vmsplice(pipe.helper_fd, {&vector, 1}), 4096);
  char read[4096];
  CHECK_EQ(::read(pipe.read_end.get(), read, sizeof read), 4096);
  CHECK_EQ(std::string(read), text);
}

bool may_raise_limits() { return read_status(::getpid())->has_capability(abi::kCapSysResource); }

void* private_page() {
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  return page;
}

}  // namespace

TEST(helper_life) {
  void* page = private_page();
  const Child child([&] { std::strcpy(static_cast<char*>(page), "of the child"); });
  for (int i = 0; i < 5; ++i) {
    live(child.pid(), [&](Helper& helper) {
      const auto status = read_status(helper.pid());
      CHECK_EQ(status->name, "sluice-helper");
      CHECK_EQ(status->ppid, child.pid());
      CHECK_EQ(status->tgid, helper.pid());
      // All but KILL and STOP, and TRAP, by which it is stepped.
      CHECK_EQ(status_line(helper.pid(), "SigBlk"), "fffffffffffbfeef");
      CHECK_EQ(count_fds(helper.pid()), 0);
      CHECK_EQ(helper.call(make_call(SYS_getpid)), helper.pid());
      CHECK_EQ(helper.call(make_call(SYS_close, {~0ull})), -EBADF);
      check_splices(helper, page, "of the child");
      CHECK_EQ(count_fds(helper.pid()), 1);
    });
  }
  ::munmap(page, 4096);
}

TEST(helper_among_64_threads) {
  const Child child([] { start_threads(64, [](int) { ::pause(); }); });
  live(child.pid(), [&](Helper& helper) {
    CHECK_EQ(helper.call(make_call(SYS_getppid)), child.pid());
    CHECK_EQ(threads_of(child.pid()).size(), 65u);
  });
}

TEST(helper_in_a_stopped_target) {
  const Child child([] {});
  ::kill(child.pid(), SIGSTOP);
  wait_until("it is stopped", [&] { return state_of(child.pid(), child.pid()) == 'T'; });
  const auto check_stopped = [&] {
    wait_until("it is stopped again", [&] { return state_of(child.pid(), child.pid()) == 'T'; });
  };
  live(child.pid(), [&](Helper& helper) {
    check_stopped();
    CHECK_EQ(helper.call(make_call(SYS_getpid)), helper.pid());
  });
  check_stopped();
}

TEST(helper_in_a_filtered_target) {
  void* page = private_page();
  const auto check = [&](Helper& helper) { check_splices(helper, page, "behind a filter"); };
  const auto start = [&](uint32_t action) {
    return std::make_unique<Child>([&] {
      std::strcpy(static_cast<char*>(page), "behind a filter");
      answer_all_that_helpers_do(action);
    });
  };
  live(start(SECCOMP_RET_ERRNO | EPERM)->pid(), check);
  // Nothing is done if the death of the dumper could let the filter have its way.
  for (const uint32_t action :
       {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP}) {
    const auto child = start(action);
    const std::string before = snapshot(child->pid());
    CHECK_THROWS("INJECTION", live(child->pid(), check));
    check_unchanged(child->pid(), before);
    live(child->pid(), check, DespiteFilter::kYes);
  }
  ::munmap(page, 4096);
}

// The target's own waits see its own children only, though the helper is one.
TEST(helper_is_invisible_to_the_targets_waits) {
  struct Memory {
    std::atomic<int> stop;
    std::atomic<int> looks;
    std::atomic<int> wrong;
  };
  Shared<Memory> memory;
  Child child([] {},
              [&] {
                while (memory->stop == 0) {
                  int status = 0;
                  const bool seen = ::wait4(-1, &status, WNOHANG, nullptr) != -1 ||
                                    errno != ECHILD || ::wait4(-1, &status, 0, nullptr) != -1 ||
                                    errno != ECHILD ||
                                    ::wait4(-1, &status, WUNTRACED | WCONTINUED, nullptr) != -1;
                  memory->wrong += seen ? 1 : 0;
                  // Its own child is there for it all the same.
                  const pid_t own = ::fork();
                  if (own == 0) {
                    ::_exit(7);
                  }
                  memory->wrong +=
                      ::wait4(-1, &status, 0, nullptr) == own && WEXITSTATUS(status) == 7 ? 0 : 1;
                  ++memory->looks;
                }
                return 0;
              });
  Rig rig(child.pid());
  for (int i = 0; i < 10; ++i) {
    rig.task.run([&] {
      const auto wait_for_looks = [&] {
        const int before = memory->looks;
        wait_until("it looked", [&] { return memory->looks > before + 3; });
      };
      std::unique_ptr<Helper> helper = rig.start_helper();
      wait_for_looks();
      std::vector<HelperRemains> remains = {helper->end()};
      helper.reset();
      CHECK_EQ(read_stat(remains[0].zombie)->state, 'Z');
      wait_for_looks();
      CHECK_EQ(remove_remains(rig.stop_thread().get(), remains).size(), 0u);
    });
  }
  memory->stop = 1;
  CHECK_EQ(child.finish(), 0);
  CHECK_EQ(memory->wrong.load(), 0);
}

// What the target closes is closed: the helper holds no copy of its descriptors.
TEST(helper_holds_no_descriptors) {
  int fds[2];
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  Child child([&] { ::close(fds[0]); },
              [&] {
                char byte = 0;
                (void)!::read(fds[1], &byte, 1);  // until told to
                ::close(fds[1]);
                ::pause();
                return 0;
              });
  ::close(fds[1]);
  Rig rig(child.pid());
  rig.task.run([&] {
    std::unique_ptr<Helper> helper = rig.start_helper();
    CHECK_EQ(::write(fds[0], "x", 1), 1);
    char byte = 0;
    CHECK_EQ(::read(fds[0], &byte, 1), 0);
    remove_remains(rig.stop_thread().get(), {helper->end()});
  });
  ::close(fds[0]);
}

TEST(helper_under_a_limit_on_descriptors) {
  const Child child([] {
    const rlimit eight{8, 8};
    CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &eight), 0);
  });
  live(child.pid(), [&](Helper& helper) {
    std::vector<HelperPipe> pipes;
    // One descriptor stays for each pipe, and making one takes two.
    const size_t most = may_raise_limits() ? 1023 : 7;
    for (size_t i = 0; i < most; ++i) {
      pipes.push_back(helper.make_pipe());
    }
    CHECK_THROWS("INJECTION", helper.make_pipe());
    CHECK_EQ(helper.call(make_call(SYS_getpid)), helper.pid());
  });
}

TEST(helper_forbidden_by_limits) {
  // On its address space.
  Child full([] {
    const rlimit less_than_it_has{4096, 4096};
    CHECK_EQ(::setrlimit(RLIMIT_AS, &less_than_it_has), 0);
  });
  // On processes, which the superuser does not have.
  Child lonely([] {
    const rlimit none{1, 1};
    CHECK_EQ(::setrlimit(RLIMIT_NPROC, &none), 0);
    CHECK_EQ(::setresgid(54321, 54321, 54321), 0);
    CHECK_EQ(::setresuid(54321, 54321, 54321), 0);
  });
  for (Child* child : {&full, &lonely}) {
    const pid_t pid = child->pid();
    wait_until("it rests", [&] { return state_of(pid, pid) == 'S'; });
    const std::string before = snapshot(pid);
    Rig rig(pid);
    CHECK_THROWS("INJECTION", rig.task.run([&] { rig.start_helper(); }));
    wait_until("it rests again", [&] { return state_of(pid, pid) == 'S'; });
    check_unchanged(pid, before);
  }
}

TEST(helper_calls_that_fail) {
  const Child child([] {});
  struct Case {
    long number;
    bool remote;
  };
  for (const Case& c : {Case{SYS_mmap, true}, Case{SYS_clone, true}}) {
    const std::string before = snapshot(child.pid());
    Rig rig(child.pid());
    sys::set_faults({{.number = c.number, .remote = c.remote, .errnum = ENOMEM}});
    CHECK_THROWS("INJECTION", rig.task.run([&] { rig.start_helper(); }));
    sys::set_faults({});
    check_unchanged(child.pid(), before);
  }
  for (const Case& c : {Case{SYS_pipe2, true}, Case{SYS_pidfd_getfd, false}}) {
    live(child.pid(), [&](Helper& helper) {
      sys::set_faults({{.number = c.number, .remote = c.remote, .errnum = EPERM}});
      CHECK_THROWS("INJECTION", helper.make_pipe());
      sys::set_faults({});
      CHECK_EQ(helper.call(make_call(SYS_getpid)), helper.pid());
    });
  }
}

TEST(helper_that_is_killed_or_stopped) {
  const Child child([] {});
  const std::string before = snapshot(child.pid());
  Rig rig(child.pid());
  rig.task.run([&] {
    std::unique_ptr<Helper> helper = rig.start_helper();
    // Job control does not reach it.
    ::kill(helper->pid(), SIGSTOP);
    CHECK_EQ(helper->call(make_call(SYS_getpid)), helper->pid());
    CHECK_EQ(helper->call(make_call(SYS_getpid)), helper->pid());
    ::kill(helper->pid(), SIGTERM);
    CHECK_EQ(helper->call(make_call(SYS_getpid)), helper->pid());
    ::kill(helper->pid(), SIGKILL);
    CHECK_EQ(helper->call(make_call(SYS_getpid)), -ESRCH);
    CHECK_EQ(helper->call(make_call(SYS_getpid)), -ESRCH);
    CHECK_THROWS("INJECTION", helper->make_pipe());
    std::vector<HelperRemains> remains = {helper->end()};
    CHECK(static_cast<bool>(remains[0].scratch));  // nobody could unmap it
    CHECK_EQ(remove_remains(rig.stop_thread().get(), remains).size(), 0u);
  });
  check_unchanged(child.pid(), before);
}

TEST(helper_outlives_its_target) {
  const AdoptsOrphans adopts;
  Child child([] {});
  Rig rig(child.pid());
  rig.task.run([&] {
    std::unique_ptr<Helper> helper = rig.start_helper();
    child.end();
    // It still has the memory, and works on.
    CHECK_EQ(helper->call(make_call(SYS_getpid)), helper->pid());
  });
}

TEST(helper_of_a_target_that_ignores_its_children) {
  const Child child([] { ::signal(SIGCHLD, SIG_IGN); });
  live(child.pid(), [](Helper&) {});
}

// A fork of the target has neither scratch nor helper.
TEST(helper_is_not_inherited) {
  Shared<std::atomic<pid_t>> forked;
  Child child([&] {
    struct sigaction action{};
    static std::atomic<pid_t>* result;
    result = &*forked;
    action.sa_handler = [](int) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        for (;;) {
          ::pause();
        }
      }
      *result = pid;
    };
    ::sigaction(SIGUSR1, &action, nullptr);
    ::signal(SIGCHLD, SIG_IGN);
  });
  Rig rig(child.pid());
  rig.task.run([&] {
    std::unique_ptr<Helper> helper = rig.start_helper();
    ::kill(child.pid(), SIGUSR1);
    wait_until("it forked", [&] { return forked->load() != 0; });
    for (const Mapping& mapping : read_maps(*forked)) {
      CHECK(mapping.start != helper->scratch().value());
    }
    ::kill(*forked, SIGKILL);
    remove_remains(rig.stop_thread().get(), {helper->end()});
  });
}

}  // namespace sluice::test
