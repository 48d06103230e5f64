#include "target/freeze.h"

#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "kernel/proc_task.h"
#include "rig.h"
#include "spinner.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr size_t kCounters = 16;

struct Counters {
  std::atomic<uint64_t> of_thread[kCounters];
  std::atomic<int> stop;
};

uint64_t sum(const Counters& counters) {
  uint64_t total = 0;
  for (const auto& counter : counters.of_thread) {
    total += counter;
  }
  return total;
}

// No thread runs: what they count does not move, and each is in a tracing stop or dead.
void check_all_stand_still(pid_t pid, const Counters& counters) {
  const uint64_t before = sum(counters);
  for (const pid_t tid : threads_of(pid)) {
    const char state = state_of(pid, tid);
    if (state != 't' && state != 'Z' && state != 'X' && state != '\0') {
      throw Failure{__FILE__, __LINE__, std::string("a thread is in state ") + state};
    }
  }
  const timespec pause{0, 500'000};
  ::nanosleep(&pause, nullptr);
  CHECK_EQ(sum(counters), before);
}

void count_forever(Counters* counters, size_t index) {
  while (counters->stop == 0) {
    ++counters->of_thread[index % kCounters];
  }
}

template <typename Work>
void frozen(pid_t pid, TracerTask& task, Work work) {
  task.run([&] {
    Freeze freeze(pid, task.pid(), {far_off()});
    work(freeze);
    freeze.thaw();
    CHECK(freeze.freezing_us() > 0);
    CHECK(freeze.frozen_us() >= freeze.freezing_us());
  });
}

}  // namespace

TEST(freeze_stops_all_threads) {
  Shared<Counters> counters;
  const Child child([&] {
    start_threads(12, [&counters](int i) {
      i < 8 ? count_forever(&*counters, static_cast<size_t>(i)) : static_cast<void>(::pause());
    });
  });
  TracerTask task;
  for (int i = 0; i < 100; ++i) {
    frozen(child.pid(), task, [&](Freeze& freeze) {
      check_all_stand_still(child.pid(), *counters);
      std::vector<pid_t> tids;
      for (const FrozenThread& thread : freeze.threads()) {
        tids.push_back(thread.tid);
      }
      CHECK(tids == threads_of(child.pid()));
    });
    const uint64_t before = sum(*counters);
    wait_until("they run again", [&] { return sum(*counters) > before; });
  }
  wait_until("those that sleep do so again", [&] {
    return state_of(child.pid(), child.pid()) == 'S' &&
           status_line(child.pid(), "TracerPid") == "0";
  });
}

// New threads are made by threads that still run, also while the freeze looks for them.
TEST(freeze_catches_threads_that_are_just_being_made) {
  Shared<Counters> counters;
  const Child child([&] {
    start_threads(6, [&counters](int i) {
      for (;;) {
        std::thread([&counters, i] { ++counters->of_thread[i]; }).join();
      }
    });
  });
  TracerTask task;
  std::set<pid_t> seen;
  for (int i = 0; i < 100; ++i) {
    frozen(child.pid(), task, [&](Freeze& freeze) {
      check_all_stand_still(child.pid(), *counters);
      for (const FrozenThread& thread : freeze.threads()) {
        seen.insert(thread.tid);
      }
    });
    const uint64_t before = sum(*counters);
    wait_until("they run again", [&] { return sum(*counters) > before + 20; });
  }
  CHECK(seen.size() > 7);  // short-lived ones were among them
}

TEST(freeze_reads_registers) {
  Spinner spinner(60);
  TracerTask task;
  frozen(spinner.pid(), task, [&](Freeze& freeze) {
    const auto threads = freeze.threads();
    CHECK_EQ(threads.size(), 1u);
    HoldState held;
    CHECK(TargetMemory(spinner.pid())
              .read(RemotePtr(reinterpret_cast<uint64_t>(&sluice_test_hold_state)), &held,
                    offsetof(HoldState, extended_want)));
    const arch::Registers& registers = threads[0].registers;
    CHECK_EQ(registers.rax, held.want[0]);
    CHECK_EQ(registers.rdi, held.want[5]);
    CHECK_EQ(registers.rbp, held.want[6]);
    CHECK_EQ(registers.r15, held.want[14]);
    CHECK_EQ(registers.rsp & ~15ull, held.stack_pointer & ~15ull);
  });
  spinner.check("a freeze");
}

TEST(freeze_changes_no_register) {
  Spinner spinner(61);
  TracerTask task;
  for (int i = 0; i < 500; ++i) {
    frozen(spinner.pid(), task, [](Freeze&) {});
  }
  spinner.check("500 freezes");
}

TEST(freeze_is_ended_by_the_dumpers_death) {
  const AdoptsOrphans adopts;
  Shared<Counters> counters;
  const Child child([&] {
    start_threads(8, [&counters](int i) { count_forever(&*counters, static_cast<size_t>(i)); });
  });
  Shared<std::atomic<pid_t>> tracer;
  Child dumper([] {},
               [&]() -> int {
                 TracerTask task;
                 frozen(child.pid(), task, [&](Freeze&) {
                   *tracer = task.pid();
                   for (;;) {
                     ::pause();
                   }
                 });
                 return 1;
               });
  wait_until("it is frozen", [&] { return tracer->load() != 0; });
  check_all_stand_still(child.pid(), *counters);
  ::kill(dumper.pid(), SIGKILL);
  dumper.finish();
  reap_orphan(*tracer);
  const uint64_t before = sum(*counters);
  wait_until("they run again", [&] {
    return sum(*counters) > before && status_line(child.pid(), "TracerPid") == "0";
  });
}

TEST(freeze_target_killed_meanwhile) {
  for (int i = 0; i < 20; ++i) {
    Child child([] { start_threads(4, [](int) { ::pause(); }); });
    auto task = std::make_unique<TracerTask>();
    frozen(child.pid(), *task, [&](Freeze&) { ::kill(child.pid(), SIGKILL); });
    task.reset();  // the last that threads which ended could wait for
    CHECK_EQ(child.finish(), 1000 + SIGKILL);
  }
}

// The process ends while its threads are being seized, stopped or let go.
TEST(freeze_while_the_target_exits) {
  for (int i = 0; i < 100; ++i) {
    Shared<std::atomic<int>> frozen_times;
    Child child([] { start_threads(4, [](int) { std::this_thread::yield(); }); },
                [&] {
                  start_threads(3, [](int) { ::pause(); });
                  while (*frozen_times == 0) {
                  }
                  return 5;
                });
    auto task = std::make_unique<TracerTask>();
    const auto freeze_again_and_again = [&] {
      for (;;) {
        frozen(child.pid(), *task, [&](Freeze&) { ++*frozen_times; });
      }
    };
    CHECK_THROWS("TARGET_EXITED", freeze_again_and_again());
    // What it traces is hidden from the parent, also a zombie.
    task.reset();
    CHECK_EQ(child.finish(), 5);
  }
}

// execve(2) by another thread than the main one: all others vanish, and it takes the main id.
TEST(freeze_while_the_target_calls_execve) {
  for (int i = 0; i < 100; ++i) {
    Shared<std::atomic<int>> go;
    Child child([&] {
      start_threads(4, [&go](int n) {
        while (*go == 0) {
          std::this_thread::yield();
        }
        if (n == 2) {
          char name[] = "true";
          char* const arguments[] = {name, nullptr};
          ::execve("/bin/true", arguments, arguments + 1);
        }
        ::pause();
      });
    });
    auto task = std::make_unique<TracerTask>();
    int times = 0;
    const auto freeze_again_and_again = [&] {
      for (;; ++times) {
        frozen(child.pid(), *task, [](Freeze&) {});
        if (times == 1) {
          *go = 1;
        }
      }
    };
    CHECK_THROWS("TARGET_EXITED", freeze_again_and_again());
    task.reset();
    CHECK_EQ(child.finish(), 0);
  }
}

// The same again, but that the new program lives: it is frozen as any other, and soon.
TEST(freeze_until_another_program_is_executed) {
  constexpr int kTimes = 200;
  for (int i = 0; i < kTimes; ++i) {
    Shared<std::atomic<int>> go;
    const Child child([&] {
      start_threads(2, [&go](int n) {
        while (n == 1 && *go == 0) {
          std::this_thread::yield();
        }
        if (n == 1) {
          char name[] = "sleep";
          char time[] = "1000";
          char* const arguments[] = {name, time, nullptr};
          ::execve("/bin/sleep", arguments, arguments + 2);
        }
        ::pause();
      });
    });
    TracerTask task;
    for (int after = 0; after < 3;) {
      try {
        frozen(child.pid(), task, [&](Freeze& freeze) {
          const bool executed = thread_name(child.pid(), child.pid()) == "sleep";
          CHECK(!executed || freeze.threads().size() == 1);
          for (const pid_t tid : threads_of(child.pid())) {
            CHECK_EQ(state_of(child.pid(), tid), 't');
          }
          after += executed ? 1 : 0;
        });
      } catch (const Error& error) {
        // While the kernel changes its main thread, there is none: callers look what became of it.
        CHECK(error.is("TARGET_EXITED"));
      }
      *go = 1;
    }
  }
}

// The main thread ends alone: it stays as a zombie that can neither be stopped nor waited for.
TEST(freeze_while_the_main_thread_exits) {
  for (int i = 0; i < 100; ++i) {
    Shared<Counters> counters;
    Child child([&] { start_threads(2, [](int) { ::pause(); }); },
                [&]() -> int {
                  while (counters->stop == 0) {
                  }
                  ::syscall(SYS_exit, 0);
                  return 0;
                });
    // It ends before the child: a zombie that it traces is hidden from the parent.
    TracerTask task;
    for (int n = 0; n < 6; ++n) {
      if (n == 2) {
        counters->stop = 1;
      }
      frozen(child.pid(), task, [&](Freeze& freeze) {
        CHECK(freeze.threads().size() >= 2);
        check_all_stand_still(child.pid(), *counters);
      });
    }
  }
}

TEST(freeze_refuses) {
  Child child([] {});
  const pid_t pid = child.pid();
  TracerTask task;
  const auto freeze = [&] { frozen(pid, task, [](Freeze&) {}); };
  {
    const Child other([&] { CHECK_EQ(::ptrace(PTRACE_SEIZE, pid, 0, 0), 0); });
    CHECK_THROWS("ALREADY_TRACED", freeze());
  }
  freeze();
  ::kill(pid, SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  CHECK_THROWS("TARGET_EXITED", freeze());
  child.end();
  CHECK_THROWS("TARGET_EXITED", freeze());
}

// A thread that cannot be stopped: the others must not stand still for it longer than allowed.
TEST(freeze_gives_up_in_time) {
  Shared<Counters> counters;
  Child child([&] { start_threads(3, [&](int n) { count_forever(&*counters, n); }); },
              wait_in_vfork);
  const pid_t pid = child.pid();
  wait_until("it waits", [&] { return state_of(pid, pid) == 'D'; });
  const auto runs_free = [&] {
    const uint64_t before = sum(*counters);
    wait_until("the others run",
               [&] { return sum(*counters) > before && status_line(pid, "TracerPid") == "0"; });
  };
  const auto soon = [] { return Clock::now() + std::chrono::milliseconds(30); };
  auto task = std::make_unique<TracerTask>();
  CHECK_THROWS("FREEZE_TIMEOUT", task->run([&] { Freeze(pid, task->pid(), {soon()}); }));
  task.reset();
  runs_free();

  // An abort ends it earlier.
  task = std::make_unique<TracerTask>();
  int asked = 0;
  const auto abort = [&asked] {
    if (++asked > 3) {
      throw Error("CANCELLED", 0, "", 0, "");
    }
  };
  CHECK_THROWS("CANCELLED", task->run([&] { Freeze(pid, task->pid(), {far_off(), abort}); }));
  task.reset();
  runs_free();

  // Or it is seen before anything is stopped.
  CHECK_THROWS("FREEZE_TIMEOUT", wait_until_stoppable(pid, {soon()}));
  asked = 0;
  CHECK_THROWS("CANCELLED", wait_until_stoppable(pid, {far_off(), abort}));
  counters->stop = 1;
  ::kill(children_of(pid).at(0), SIGKILL);
  CHECK_EQ(child.finish(), 0);
}

TEST(freeze_is_not_put_off_by_short_uninterruptible_calls) {
  const Child child([] { start_threads(2, [](int) { ::pause(); }); });
  wait_until_stoppable(child.pid(), {far_off()});
  Child gone([] {});
  const pid_t pid = gone.pid();
  gone.end();
  wait_until_stoppable(pid, {far_off()});
}

// As libuv has it: hundreds of dumps of a child of this process, whose end is seen once.
TEST(freeze_of_a_child_is_no_end_of_it) {
  Child child([] { start_threads(3, [](int) { ::pause(); }); });
  std::atomic<bool> done{false};
  std::atomic<int> seen{0};
  std::atomic<int> looks{0};
  std::thread libuv([&] {
    while (!done) {
      seen += ::waitpid(child.pid(), nullptr, WNOHANG) != 0 ? 1 : 0;
      ++looks;
    }
  });
  TracerTask task;
  for (int i = 0; i < 300 || looks < 10'000; ++i) {
    frozen(child.pid(), task, [&](Freeze&) {});
  }
  done = true;
  libuv.join();
  CHECK_EQ(seen.load(), 0);
  ::kill(child.pid(), SIGTERM);
  CHECK_EQ(child.finish(), 1000 + SIGTERM);
}

}  // namespace sluice::test
