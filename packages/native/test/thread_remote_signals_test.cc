// Signals and injected calls: every signal is handled once, in order, when the thread is itself.
#include <sys/syscall.h>

#include <atomic>

#include "check.h"
#include "child.h"
#include "rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

struct Log {
  std::atomic<int> handled;
  std::atomic<int> usr1;
  int values[1024];
};
Log* g_log = nullptr;

void handle(int signal, siginfo_t* info, void*) {
  if (signal == SIGUSR1) {
    ++g_log->usr1;
  } else {
    g_log->values[g_log->handled] = info->si_value.sival_int;
    ++g_log->handled;
  }
}

// Handles SIGUSR1 and SIGRTMIN, and has SIGUSR2 blocked and pending.
void prepare(Log* log) {
  g_log = log;
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGRTMIN, &action, nullptr);
  sigset_t blocked;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR2);
  ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
  ::raise(SIGUSR2);
}

void check_in_order(const Log& log, int count) {
  CHECK_EQ(log.handled.load(), count);
  for (int i = 0; i < count; ++i) {
    CHECK_EQ(log.values[i], i);
  }
}

}  // namespace

TEST(thread_remote_signals_meanwhile_are_handled_once) {
  Shared<Log> log;
  const Child child([&] { prepare(&*log); });
  const std::string before = snapshot(child.pid());
  Rig rig(child.pid());
  int sent = 0;
  const auto send = [&] {
    sigval value{};
    value.sival_int = sent++;
    ::sigqueue(child.pid(), SIGRTMIN, value);
  };
  constexpr int kRounds = 30;
  for (int round = 0; round < kRounds; ++round) {
    rig.in_thread([&](RemoteThread& t) {
      const int handled = log->handled;
      for (int i = 0; i < 5; ++i) {
        send();
        CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      }
      ::kill(child.pid(), SIGUSR1);
      ::kill(child.pid(), SIGUSR1);  // one of a kind can be pending
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      CHECK_EQ(log->handled.load(), handled);
      CHECK_EQ(log->usr1.load(), round);
      return 0;
    });
    wait_until("they are handled", [&] { return log->handled == sent && log->usr1 == round + 1; });
  }
  check_in_order(*log, sent);
  wait_until("it sleeps", [&] { return state_of(child.pid(), child.pid()) == 'S'; });
  CHECK_EQ(log->usr1.load(), kRounds);
  check_unchanged(child.pid(), before);  // SIGUSR2 is pending as it was
}

// Without pauses, so that signals come at every step.
TEST(thread_remote_signals_at_any_instant) {
  Shared<Log> log;
  const Child child([&] { prepare(&*log); });
  const pid_t target = child.pid();
  Child sender([] {},
               [&] {
                 for (int i = 0; i < 1000; ++i) {
                   sigval value{};
                   value.sival_int = i;
                   while (::sigqueue(target, SIGRTMIN, value) != 0) {
                     ::sched_yield();
                   }
                   const timespec pause{0, 20'000};
                   ::nanosleep(&pause, nullptr);
                 }
                 return 0;
               });
  Rig rig(child.pid());
  while (log->handled < 1000) {
    rig.in_thread([&](RemoteThread& t) {
      for (int i = 0; i < 3; ++i) {
        CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      }
      return 0;
    });
  }
  CHECK_EQ(sender.finish(), 0);
  check_in_order(*log, 1000);
}

// A tracer that has waited for a stop before a signal, and dies, takes the signal with it.
TEST(thread_remote_dumper_that_has_seen_a_signal_dies) {
  const AdoptsOrphans adopts;
  Shared<Log> log;
  const Child child([&] { prepare(&*log); });
  constexpr int kTimes = 20;
  for (int i = 0; i < kTimes; ++i) {
    DyingDumper(child.pid(), steps::Step::kSignalSeen, 1, [&](Rig&) {
      Tracee tracee(child.pid());
      CHECK(tracee.seize(0));
      sigval value{};
      value.sival_int = i;
      ::sigqueue(child.pid(), SIGRTMIN, value);
      CHECK(tracee.wait(far_off()) == Stop::kSignal);
    }).wait_dead();
    wait_until("it is handled", [&] { return log->handled == i + 1; });
  }
  check_in_order(*log, kTimes);
}

TEST(thread_remote_stop_signal_meanwhile) {
  const Child child([] {});
  Rig rig(child.pid());
  const auto is = [&](char state) { return state_of(child.pid(), child.pid()) == state; };
  for (int i = 0; i < 10; ++i) {
    rig.in_thread([&](RemoteThread& t) {
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      ::kill(child.pid(), SIGSTOP);
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      return 0;
    });
    wait_until("it is stopped", [&] { return is('T'); });
    // And before the first call.
    rig.in_thread([&](RemoteThread& t) {
      ::kill(child.pid(), SIGCONT);
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      return 0;
    });
    wait_until("it goes on", [&] { return is('S'); });
    CHECK_EQ(status_line(child.pid(), "TracerPid"), "0");
  }
}

// A stop that is taken back meanwhile must not come back later.
TEST(thread_remote_stop_and_continue_meanwhile) {
  Shared<Log> log;
  const Child child([&] { prepare(&*log); });
  Rig rig(child.pid());
  for (int i = 0; i < 10; ++i) {
    rig.in_thread([&](RemoteThread& t) {
      ::kill(child.pid(), SIGSTOP);
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      ::kill(child.pid(), SIGCONT);
      CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
      return 0;
    });
    sigval value{};
    value.sival_int = i;
    ::sigqueue(child.pid(), SIGRTMIN, value);
    wait_until("it runs", [&] { return log->handled == i + 1; });
  }
  check_in_order(*log, 10);
}

TEST(thread_remote_stop_signal_among_threads) {
  const Child child([] { start_threads(4, [](int) { ::pause(); }); });
  Rig rig(child.pid());
  rig.in_thread([&](RemoteThread& t) {
    ::kill(child.pid(), SIGSTOP);
    CHECK_EQ(t.call(make_call(SYS_getpid)), child.pid());
    return 0;
  });
  const auto all_are = [&](char state) {
    for (const pid_t tid : threads_of(child.pid())) {
      if (state_of(child.pid(), tid) != state) {
        return false;
      }
    }
    return true;
  };
  wait_until("all are stopped", [&] { return all_are('T'); });
  ::kill(child.pid(), SIGCONT);
  wait_until("all go on", [&] { return all_are('S'); });
}

}  // namespace sluice::test
