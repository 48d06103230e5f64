#include "target/thread_remote.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include <atomic>
#include <vector>

#include "check.h"
#include "child.h"
#include "kernel/syscalls.h"
#include "rig.h"
#include "seccomp_filter.h"
#include "tools.h"

namespace sluice::test {
namespace {

int64_t getpid_in(Rig& rig) {
  return rig.in_thread([](RemoteThread& t) { return t.call(make_call(SYS_getpid)); });
}

// Makes calls in `child` and checks that nothing of it is left.
void check_calls_leave_nothing(pid_t pid) {
  const auto rests = [pid] { return state_of(pid, pid) == 'S' || state_of(pid, pid) == 'T'; };
  wait_until("it rests", rests);
  const char state = state_of(pid, pid);
  const std::string before = snapshot(pid);
  Rig rig(pid);
  for (int i = 0; i < 20; ++i) {
    CHECK_EQ(getpid_in(rig), pid);
  }
  wait_until("it rests again", [&] { return state_of(pid, pid) == state; });
  check_unchanged(pid, before);
}

}  // namespace

TEST(thread_remote_calls) {
  const Child child([] {});
  check_calls_leave_nothing(child.pid());
}

TEST(thread_remote_arguments_and_errors) {
  const Child child([] {});
  Rig rig(child.pid());
  const std::string before = snapshot(child.pid());
  rig.in_thread([&](RemoteThread& t) {
    CHECK_EQ(t.call(make_call(SYS_close, {~0ull})), -EBADF);
    CHECK_EQ(t.call(make_call(-1)), -ENOSYS);
    // All six arguments.
    const int64_t at =
        t.call(make_call(SYS_mmap, {0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0}));
    CHECK(at > 0);
    bool found = false;
    for (const Mapping& mapping : read_maps(child.pid())) {
      found = found || (mapping.start <= static_cast<uint64_t>(at) &&
                        static_cast<uint64_t>(at) + 8192 <= mapping.end && !mapping.writable);
    }
    CHECK(found);
    CHECK_EQ(t.call(make_call(SYS_munmap, {static_cast<uint64_t>(at), 8192})), 0);
    return 0;
  });
  check_unchanged(child.pid(), before);
}

TEST(thread_remote_faults_hit_nothing_else) {
  const Child child([] {});
  Rig rig(child.pid());
  sys::set_faults({{.number = SYS_getpid, .remote = true, .times = 1, .errnum = EIO}});
  rig.in_thread([&](RemoteThread& t) {
    CHECK_EQ(t.call(make_call(SYS_getpid)), -EIO);
    CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
    return 0;
  });
}

TEST(thread_remote_among_64_threads) {
  const Child child([] {
    start_threads(64, [](int i) {
      for (;;) {
        i % 4 == 0 ? std::this_thread::yield() : static_cast<void>(::pause());
      }
    });
  });
  check_calls_leave_nothing(child.pid());
}

TEST(thread_remote_in_a_stopped_target) {
  const Child child([] {});
  ::kill(child.pid(), SIGSTOP);
  wait_until("it is stopped", [&] { return state_of(child.pid(), child.pid()) == 'T'; });
  check_calls_leave_nothing(child.pid());
  CHECK_EQ(state_of(child.pid(), child.pid()), 'T');
  ::kill(child.pid(), SIGCONT);
  wait_until("it goes on", [&] { return state_of(child.pid(), child.pid()) == 'S'; });
}

TEST(thread_remote_in_a_filtered_target) {
  // The filter means it.
  Child killed([] { kill_on_all_that_helpers_do(); },
               [] { return static_cast<int>(::syscall(SYS_getppid)); });
  CHECK_EQ(killed.finish(), 1000 + SIGSYS);

  const Child child([] { kill_on_all_that_helpers_do(); });
  const std::string before = snapshot(child.pid());
  Rig careful(child.pid());
  CHECK_THROWS("INJECTION",
               careful.in_thread([](RemoteThread& t) { return t.call(make_call(SYS_getppid)); }));
  check_unchanged(child.pid(), before);
  Rig bold(child.pid(), DespiteFilter::kYes);
  CHECK_EQ(bold.in_thread([](RemoteThread& t) { return t.call(make_call(SYS_getppid)); }),
           ::getpid());
  check_unchanged(child.pid(), before);
}

// The tracer's death gives the filter its power back.
TEST(thread_remote_dumper_of_a_filtered_target_dies) {
  const AdoptsOrphans adopts;
  for (const Death& death : kDeaths) {
    const Child child([] { fail_all_that_helpers_do(); });
    DyingDumper(child.pid(), death.step, death.times, three_calls).wait_dead();
    wait_until(death.name, [&] {
      CHECK(state_of(child.pid(), child.pid()) != 'Z');
      return state_of(child.pid(), child.pid()) == 'S' &&
             status_line(child.pid(), "TracerPid") == "0";
    });
  }
}

TEST(thread_remote_waits_out_no_vfork) {
  Child child([] {}, wait_in_vfork);
  wait_until("it waits", [&] { return state_of(child.pid(), child.pid()) == 'D'; });
  const std::string before = snapshot(child.pid());
  Rig rig(child.pid());
  const Deadline soon = Clock::now() + std::chrono::milliseconds(50);
  CHECK_THROWS("FREEZE_TIMEOUT", rig.in_thread([](RemoteThread&) { return 0; }, soon));
  CHECK_EQ(state_of(child.pid(), child.pid()), 'D');
  check_unchanged(child.pid(), before);
  ::kill(children_of(child.pid()).at(0), SIGKILL);
  CHECK_EQ(child.finish(), 0);
}

TEST(thread_remote_takes_another_thread_than_one_in_vfork) {
  Child child([] { start_threads(1, [](int) { ::pause(); }); }, wait_in_vfork);
  wait_until("it waits", [&] { return state_of(child.pid(), child.pid()) == 'D'; });
  Rig rig(child.pid());
  CHECK_EQ(getpid_in(rig), child.pid());
  ::kill(children_of(child.pid()).at(0), SIGKILL);
  CHECK_EQ(child.finish(), 0);
}

// On a stack that is not known to be one, the thread is let go again untouched, many times over: a
// call that every stop makes fail must not notice.
TEST(thread_remote_refuses_an_alternate_stack) {
  struct Memory {
    std::atomic<int> returned;
    long result;
    int epoll;
  };
  Shared<Memory> memory;
  static Memory* shared;
  shared = &*memory;
  int fds[2];
  CHECK_EQ(::pipe(fds), 0);
  Child child([] {},
              [&] {
                memory->epoll = ::epoll_create1(0);
                epoll_event readable{EPOLLIN, {}};
                ::epoll_ctl(memory->epoll, EPOLL_CTL_ADD, fds[0], &readable);
                std::vector<char> stack(262144);
                const stack_t alternate{stack.data(), 0, stack.size()};
                ::sigaltstack(&alternate, nullptr);
                struct sigaction action{};
                action.sa_flags = SA_ONSTACK;
                action.sa_handler = [](int) {
                  epoll_event event;
                  shared->result = ::syscall(SYS_epoll_wait, shared->epoll, &event, 1, -1);
                  shared->returned = 1;
                };
                ::sigaction(SIGUSR2, &action, nullptr);
                ::raise(SIGUSR2);
                const stack_t none{nullptr, SS_DISABLE, 0};
                ::sigaltstack(&none, nullptr);
                return memory->result == 1 ? 0 : 1;
              });
  wait_until("it waits", [&] { return blocked_in(child.pid(), child.pid()) == SYS_epoll_wait; });
  const std::string before = snapshot(child.pid());
  Rig rig(child.pid());
  const Deadline soon = Clock::now() + std::chrono::milliseconds(100);
  CHECK_THROWS("INJECTION", rig.in_thread([](RemoteThread&) { return 0; }, soon));
  CHECK_EQ(memory->returned.load(), 0);
  check_unchanged(child.pid(), before);
  CHECK_EQ(::write(fds[1], "x", 1), 1);
  CHECK_EQ(child.finish(), 0);
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST(thread_remote_refuses_code_that_changed) {
  const Child child([] {});
  TargetMemory memory(child.pid());
  TracerTask task;
  const auto maps = read_maps(child.pid());
  arch::Gadgets gadgets = find_gadgets(memory, maps);
  gadgets.syscall_return = gadgets.syscall_return + 1;
  task.run([&] {
    const Deadline soon = Clock::now() + std::chrono::milliseconds(20);
    CHECK_THROWS("INJECTION", RemoteThread(memory, gadgets, maps, soon));
  });
  wait_until("it rests", [&] { return state_of(child.pid(), child.pid()) == 'S'; });
}

TEST(thread_remote_under_limits) {
  const Child child([] {
    const rlimit less_than_it_has{kPageBytes, kPageBytes};
    CHECK_EQ(::setrlimit(RLIMIT_AS, &less_than_it_has), 0);
  });
  const std::string before = snapshot(child.pid());
  Rig rig(child.pid());
  rig.in_thread([&](RemoteThread& t) {
    CHECK_EQ(
        t.call(make_call(SYS_mmap, {0, 32768, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0})),
        -ENOMEM);
    return 0;
  });
  check_unchanged(child.pid(), before);
}

TEST(thread_remote_target_that_is_gone) {
  Child child([] {});
  Rig rig(child.pid());
  (void)getpid_in(rig);
  const auto maps = read_maps(child.pid());
  ::kill(child.pid(), SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
  rig.task.run([&] {
    const Deadline soon = Clock::now() + std::chrono::milliseconds(20);
    CHECK_THROWS("INJECTION", RemoteThread(rig.memory, rig.gadgets, maps, soon));
  });
  child.end();
  rig.task.run([&] {
    CHECK_THROWS("TARGET_EXITED", RemoteThread(rig.memory, rig.gadgets, maps, far_off()));
  });
}

TEST(thread_remote_target_killed_meanwhile) {
  for (const bool between : {true, false}) {
    Child child([] {});
    Rig rig(child.pid());
    CHECK_THROWS("TARGET_EXITED", rig.in_thread([&](RemoteThread& t) {
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      if (between) {
        ::kill(child.pid(), SIGKILL);
        t.call(make_call(SYS_getpid));
      } else {
        t.call(make_call(SYS_exit_group, {3}));
      }
      return 0;
    }));
    CHECK_EQ(child.finish(), between ? 1000 + SIGKILL : 3);
  }
}

TEST(thread_remote_target_of_another_tracer) {
  const Child child([] {});
  const Child other([&] { CHECK_EQ(::ptrace(PTRACE_SEIZE, child.pid(), 0, 0), 0); });
  Rig rig(child.pid());
  CHECK_THROWS("ALREADY_TRACED", rig.in_thread([](RemoteThread&) { return 0; }));
}

}  // namespace sluice::test
