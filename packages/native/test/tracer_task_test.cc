#include "target/tracer_task.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "kernel/proc_status.h"
#include "target/tracee.h"
#include "tools.h"

namespace sluice::test {
namespace {

pid_t gettid() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

// Uses a fair part of its 1 MiB of stack, with an array in each frame.
uint64_t recurse(int depth) {
  volatile unsigned char room[4096];
  for (size_t i = 0; i < sizeof room; i += 64) {
    room[i] = static_cast<unsigned char>(depth);
  }
  return depth == 0 ? room[64] : recurse(depth - 1) + room[128];
}

}  // namespace

TEST(tracer_task_is_a_process_of_its_own_with_our_memory) {
  TracerTask task;
  const pid_t creator = gettid();
  pid_t process = 0;
  task.run([&] { process = static_cast<pid_t>(::syscall(SYS_getpid)); });
  CHECK_EQ(process, task.pid());
  CHECK_EQ(task.run(gettid), task.pid());
  CHECK_EQ(gettid(), creator);
  CHECK_EQ(read_status(task.pid())->name, "sluice-tracer");
  // A wait of other code in this process does not see it.
  CHECK_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
}

TEST(tracer_task_returns_values) {
  TracerTask task;
  CHECK_EQ(task.run([] { return std::string(1000, 'x'); }), std::string(1000, 'x'));
  const auto moved = task.run([] { return std::make_unique<int>(7); });
  CHECK_EQ(*moved, 7);
}

TEST(tracer_task_many_in_a_row) {
  TracerTask task;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < 20'000; ++i) {
    task.run([&] { sum += i; });
  }
  CHECK_EQ(sum, 20'000u * 19'999 / 2);
}

TEST(tracer_task_exceptions_come_back) {
  TracerTask task;
  for (int i = 0; i < 1000; ++i) {
    CHECK_THROWS("SYSTEM", task.run([&] { throw Error("SYSTEM", i, "call", EIO, "on purpose"); }));
  }
  // Also from far below, and with the frames in between used again.
  CHECK_EQ(task.run([] { return recurse(100); }), 100u * 101 / 2);
  CHECK_THROWS("IO", task.run([] {
    const std::string kept(100, 'y');
    recurse(100);
    throw Error("IO", 0, "", 0, kept);
  }));
  CHECK_EQ(task.run([] { return recurse(100); }), 100u * 101 / 2);
}

TEST(tracer_task_inside_a_handler_keeps_both_exceptions_apart) {
  TracerTask task;
  try {
    throw Error("OUTER", 0, "", 0, "");
  } catch (const Error& outer) {
    CHECK_THROWS("INNER", task.run([] { throw Error("INNER", 0, "", 0, ""); }));
    CHECK(outer.is("OUTER"));
    CHECK_THROWS("OUTER", task.run([] { std::rethrow_exception(std::current_exception()); }));
  }
  CHECK(!std::current_exception());
}

TEST(tracer_task_borrows_thread_local_storage) {
  static thread_local int local = 0;
  TracerTask task;
  local = 5;
  CHECK_EQ(task.run([] { return local++; }), 5);
  CHECK_EQ(local, 6);
  // errno, and allocations that go through the thread's own cache.
  std::vector<std::string> texts;
  for (int i = 0; i < 1000; ++i) {
    errno = 0;
    CHECK_EQ(task.run([&] {
      texts.emplace_back(static_cast<size_t>(i), 'z');
      (void)::close(-1);
      return errno;
    }),
             EBADF);
    CHECK_EQ(errno, EBADF);
    texts.push_back(std::to_string(i));
  }
  CHECK_EQ(texts.size(), 2000u);
}

TEST(tracer_task_blocks_signals_while_it_works) {
  static std::atomic<int> caught{0};
  caught = 0;
  struct sigaction counting{};
  struct sigaction before{};
  counting.sa_handler = [](int) { ++caught; };
  ::sigaction(SIGUSR1, &counting, &before);
  TracerTask task;
  int while_working = -1;
  task.run([&] {
    ::kill(::getppid(), SIGUSR1);
    while_working = caught;
  });
  ::sigaction(SIGUSR1, &before, nullptr);
  CHECK_EQ(while_working, 0);
  CHECK_EQ(caught.load(), 1);
}

TEST(tracer_task_one_for_each_of_many_threads) {
  constexpr int kThreads = 8;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&wrong, i] {
      for (int round = 0; round < 5; ++round) {
        TracerTask task;
        for (int n = 0; n < 300; ++n) {
          try {
            const std::string text = task.run([&] {
              if (n % 3 == 0) {
                throw Error("SYSTEM", i, "", 0, std::to_string(n));
              }
              return std::to_string(i * n);
            });
            wrong += text != std::to_string(i * n) || n % 3 == 0 ? 1 : 0;
          } catch (const Error& error) {
            wrong += error.pid() != i || error.detail() != std::to_string(n) ? 1 : 0;
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK_EQ(wrong.load(), 0);
}

TEST(tracer_task_that_is_killed_says_so) {
  TracerTask task;
  CHECK_THROWS("WORKER", task.run([&] {
    ::kill(task.pid(), SIGKILL);
    for (;;) {
      ::pause();
    }
  }));
}

// The thread leaves without taking its task along: the task must not stay behind.
TEST(tracer_task_dies_with_its_thread) {
  void* storage = ::operator new(sizeof(TracerTask));
  pid_t pid = 0;
  std::thread([&] { pid = (new (storage) TracerTask)->pid(); }).join();
  siginfo_t info{};
  CHECK_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | __WCLONE), 0);
  CHECK_EQ(info.si_code, CLD_KILLED);
  CHECK_EQ(info.si_status, SIGKILL);
  ::operator delete(storage);
}

TEST(tracer_task_dies_with_its_process_and_lets_go) {
  const AdoptsOrphans adopts;
  Child target([] {});
  Shared<std::atomic<pid_t>> tracer;
  Child dumper([] {},
               [&]() -> int {
                 TracerTask task;
                 task.run([&] {
                   Tracee tracee(target.pid());
                   CHECK(tracee.seize(0));
                   CHECK(tracee.interrupt());
                   CHECK(tracee.wait_blocking() == Stop::kEvent);
                   *tracer = task.pid();
                   for (;;) {
                     ::pause();
                   }
                 });
                 return 1;
               });
  wait_until("the target is stopped", [&] { return tracer->load() != 0; });
  CHECK_EQ(read_status(target.pid())->tracer_pid, tracer->load());
  ::kill(dumper.pid(), SIGKILL);
  CHECK_EQ(dumper.finish(), 1000 + SIGKILL);
  wait_until("the target runs again", [&] {
    const auto status = read_status(target.pid());
    return status->tracer_pid == 0 && status->state == 'S';
  });
}

// Why it exists. libuv calls waitpid(pid, WNOHANG) at every SIGCHLD and takes whatever that returns
// for the child's end; so for a child of this process it must return nothing but the end.
TEST(tracer_task_hides_stops_from_the_waits_of_this_process) {
  Child child([] {});
  std::atomic<bool> done{false};
  std::atomic<int> looks{0};
  std::atomic<int> seen{0};
  std::thread libuv([&] {
    while (!done) {
      for (const int flags : {WNOHANG, WNOHANG | WUNTRACED | WCONTINUED}) {
        int status = 0;
        seen += ::waitpid(child.pid(), &status, flags) != 0 ? 1 : 0;
        seen += ::waitpid(-1, &status, flags) != 0 ? 1 : 0;
      }
      ++looks;
    }
  });
  TracerTask task;
  int cycles = 0;
  bool stopped_each_time = true;
  for (; cycles < 300 || looks < 5000; ++cycles) {
    const int before = looks;
    task.run([&] {
      Tracee tracee(child.pid());
      stopped_each_time = tracee.seize(0) && tracee.interrupt() && stopped_each_time;
      // Its stop stands there to be collected by whoever may see it.
      while (state_of(child.pid(), child.pid()) != 't' || looks < before + 3) {
        ::sched_yield();
      }
      stopped_each_time = tracee.wait_blocking() == Stop::kEvent && stopped_each_time;
      tracee.detach();
    });
  }
  done = true;
  libuv.join();
  CHECK(stopped_each_time);
  CHECK_EQ(seen.load(), 0);

  // Its end is seen, and once.
  task.run([&] {
    Tracee tracee(child.pid());
    CHECK(tracee.seize(0));
    ::kill(child.pid(), SIGKILL);
    CHECK(tracee.wait_blocking() == Stop::kGone);
  });
  int status = 0;
  CHECK_EQ(::waitpid(child.pid(), &status, WNOHANG), child.pid());
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(::waitpid(child.pid(), &status, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
}

TEST(tracer_task_that_is_idle_ends_at_its_limit) {
  TaskLimit limit;
  TracerTask task(&limit);
  task.run([&] { limit.set(TaskLimit::Clock::now() + std::chrono::milliseconds(50)); });
  while (task.alive()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(limit.passed());
  CHECK_THROWS("FREEZE_LIMIT", task.run([] {}));
}

TEST(tracer_task_at_work_ends_after_its_limit_in_any_call) {
  TaskLimit limit;
  TracerTask task(&limit);
  limit.set(TaskLimit::Clock::now() + std::chrono::milliseconds(50));
  CHECK_THROWS("FREEZE_LIMIT", task.run([] { ::pause(); }));
  CHECK(!task.alive());
  CHECK_THROWS("FREEZE_LIMIT", task.run([] {}));
}

TEST(tracer_task_limit_of_work_lets_idle_tasks_live) {
  TaskLimit limit;
  TracerTask task(&limit);
  limit.set_for_work(TaskLimit::Clock::now());
  CHECK(!limit.passed());
  CHECK_THROWS("WORKER", task.run([] { ::pause(); }));
  TracerTask other(&limit);
  CHECK(other.alive());
  limit.clear();
  CHECK_EQ(other.run([] { return 7; }), 7);
}

TEST(tracer_task_limit_that_is_cleared_ends_nothing) {
  TaskLimit limit;
  TracerTask task(&limit);
  task.run([&] { limit.set(TaskLimit::Clock::now() + std::chrono::hours(1)); });
  task.run([&] { limit.clear(); });
  CHECK_EQ(task.run([] { return 7; }), 7);
}

}  // namespace sluice::test
