// Signals, job control and blocked system calls across a freeze.
#include <sys/syscall.h>

#include <atomic>

#include "blocked.h"
#include "check.h"
#include "child.h"
#include "rig.h"
#include "target/freeze.h"
#include "tools.h"

namespace sluice::test {
namespace {

struct Log {
  std::atomic<int> handled;
  int values[4096];
};
Log* g_log = nullptr;

void log_queued_signals(Log* log) {
  g_log = log;
  struct sigaction action{};
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    g_log->values[g_log->handled] = info->si_value.sival_int;
    ++g_log->handled;
  };
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGRTMIN, &action, nullptr);
}

void queue(pid_t pid, int value) {
  sigval wrapped{};
  wrapped.sival_int = value;
  CHECK_EQ(::sigqueue(pid, SIGRTMIN, wrapped), 0);
}

void check_in_order(const Log& log, int count) {
  CHECK_EQ(log.handled.load(), count);
  for (int i = 0; i < count; ++i) {
    CHECK_EQ(log.values[i], i);
  }
}

template <typename Work>
void frozen(pid_t pid, TracerTask& task, Work work) {
  task.run([&] {
    Freeze freeze(pid, task.pid(), {far_off()});
    work();
  });
}

}  // namespace

TEST(freeze_holds_signals_back) {
  Shared<Log> log;
  const Child child([&] {
    log_queued_signals(&*log);
    start_threads(2, [](int) {
      for (;;) {
        ::pause();
      }
    });
  });
  TracerTask task;
  int sent = 0;
  for (int round = 0; round < 100; ++round) {
    frozen(child.pid(), task, [&] {
      for (int i = 0; i < 10; ++i) {
        queue(child.pid(), sent++);
      }
      CHECK_EQ(log->handled.load(), sent - 10);
    });
    wait_until("they are handled", [&] { return log->handled == sent; });
  }
}

// Some are just being delivered when the freeze comes.
TEST(freeze_loses_and_doubles_no_signal) {
  Shared<Log> log;
  const Child child([&] { log_queued_signals(&*log); });
  const pid_t target = child.pid();
  Child sender([] {},
               [target] {
                 for (int i = 0; i < 2000; ++i) {
                   queue(target, i);
                   const timespec pause{0, 10'000};
                   ::nanosleep(&pause, nullptr);
                 }
                 return 0;
               });
  TracerTask task;
  while (log->handled < 2000) {
    frozen(child.pid(), task, [] {});
  }
  CHECK_EQ(sender.finish(), 0);
  check_in_order(*log, 2000);
}

TEST(freeze_of_a_stopped_target) {
  Shared<Log> log;
  const Child child([&] { log_queued_signals(&*log); });
  const pid_t pid = child.pid();
  const auto is = [&](char state) {
    return state_of(pid, pid) == state && status_line(pid, "TracerPid") == "0";
  };
  TracerTask task;
  for (int i = 0; i < 10; ++i) {
    ::kill(pid, SIGSTOP);
    wait_until("it is stopped", [&] { return is('T'); });
    for (int n = 0; n < 5; ++n) {
      frozen(pid, task, [] {});
      wait_until("it is stopped again", [&] { return is('T'); });
    }
    queue(pid, i);
    CHECK_EQ(log->handled.load(), i);
    ::kill(pid, SIGCONT);
    wait_until("it runs", [&] { return log->handled == i + 1; });
  }
}

TEST(freeze_during_which_it_is_stopped_or_continued) {
  Shared<Log> log;
  const Child child([&] {
    log_queued_signals(&*log);
    start_threads(2, [](int) {
      for (;;) {
        ::pause();
      }
    });
  });
  const pid_t pid = child.pid();
  TracerTask task;
  int sent = 0;
  for (int i = 0; i < 10; ++i) {
    frozen(pid, task, [&] { ::kill(pid, SIGSTOP); });
    wait_until("all are stopped", [&] {
      bool all = true;
      for (const pid_t tid : threads_of(pid)) {
        all = all && state_of(pid, tid) == 'T';
      }
      return all;
    });
    frozen(pid, task, [&] { ::kill(pid, SIGCONT); });
    queue(pid, sent++);
    wait_until("it runs", [&] { return log->handled == sent; });
    frozen(pid, task, [&] {
      ::kill(pid, SIGSTOP);
      ::kill(pid, SIGCONT);
    });
    queue(pid, sent++);
    wait_until("it runs", [&] { return log->handled == sent; });
  }
}

TEST(freeze_interrupts_no_blocked_call) {
  for (const BlockedKind& kind : blocked_kinds()) {
    Blocked blocked(kind);
    blocked.wait_blocked();
    TracerTask task;
    for (int i = 0; i < 100; ++i) {
      frozen(blocked.pid(), task, [] {});
    }
    blocked.wait_blocked();
    // What it waits for comes while it is frozen.
    frozen(blocked.pid(), task, [&] { kind.happens(blocked); });
    blocked.finish_happened();
  }
}

// A handler that runs does end such a call: that is not ours to hide.
TEST(freeze_hides_no_interruption_by_a_handler) {
  Shared<std::atomic<long>> result;
  Child child([] {},
              [&] {
                struct sigaction action{};
                action.sa_handler = [](int) {};
                ::sigaction(SIGUSR1, &action, nullptr);
                const int epoll = ::epoll_create1(0);
                epoll_event event;
                *result = 1;
                const long got = ::syscall(SYS_epoll_wait, epoll, &event, 1, -1);
                return got == -1 && errno == EINTR ? 0 : 1;
              });
  wait_until("it waits", [&] { return blocked_in(child.pid(), child.pid()) == SYS_epoll_wait; });
  TracerTask task;
  frozen(child.pid(), task, [&] { ::kill(child.pid(), SIGUSR1); });
  CHECK_EQ(child.finish(), 0);
}

TEST(freeze_dumper_dies_and_no_blocked_call_notices) {
  const AdoptsOrphans adopts;
  for (const BlockedKind& kind : blocked_kinds()) {
    Blocked blocked(kind);
    blocked.wait_blocked();
    Shared<std::atomic<pid_t>> tracer;
    Child dumper([] {},
                 [&]() -> int {
                   TracerTask task;
                   frozen(blocked.pid(), task, [&] {
                     *tracer = task.pid();
                     for (;;) {
                       ::pause();
                     }
                   });
                   return 1;
                 });
    wait_until("it is frozen", [&] { return tracer->load() != 0; });
    ::kill(dumper.pid(), SIGKILL);
    dumper.finish();
    reap_orphan(*tracer);
    blocked.wait_blocked();
    blocked.finish();
  }
}

}  // namespace sluice::test
