// A target that is killed, exits or executes another program at each step of a dump: the dump says
// which, or is good; nothing of it is left, neither in a new program nor as a process.
#include <signal.h>

#include <cstring>
#include <string>
#include <thread>

#include "child.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"
#include "session_rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

using steps::Step;

enum class Ending { kKilled, kExits, kExecs };
constexpr Ending kEndings[] = {Ending::kKilled, Ending::kExits, Ending::kExecs};
constexpr int kExitCode = 3;
constexpr char kProgram[] = "sleep";

struct Orders {
  std::atomic<bool> given;
};

// What the hook needs; there is one target at a time.
struct Plan {
  pid_t pid = 0;
  Ending ending = Ending::kKilled;
  Orders* orders = nullptr;
  std::atomic<int> steps_left{0};
  std::array<std::atomic<int>, steps::kSteps> seen{};
};
Plan g_plan;

bool is_traced(pid_t pid, pid_t tid) {
  const auto status = read_thread_status(pid, tid);
  return status && status->tracer_pid != 0;
}

// It has begun to end: the thread that we have stopped is dead. Or it cannot begin while all of its
// threads are frozen.
bool has_begun() {
  const pid_t pid = g_plan.pid;
  const char state = state_of(pid, pid);
  if (state == 0 || state == 'Z' || state == 'X' || thread_name(pid, pid) == kProgram) {
    return true;
  }
  const auto tids = list_threads(pid).value_or(std::vector<pid_t>{});
  return g_plan.ending != Ending::kKilled && is_traced(pid, tids.back());
}

// The same step again and again is not another one.
constexpr int kMostOfAStep = 2;

void end_it(Step step) {
  if (g_plan.seen.at(static_cast<size_t>(step)).fetch_add(1) >= kMostOfAStep ||
      g_plan.steps_left.fetch_sub(1) != 1) {
    return;
  }
  if (g_plan.ending == Ending::kKilled) {
    ::kill(g_plan.pid, SIGKILL);
  } else {
    g_plan.orders->given = true;
  }
  wait_until("it ends", has_begun);
}

// One thread sleeps, and is the one that Sluice works with; another waits for orders.
Child start_target(Ending ending, Orders* orders) {
  return Child([=] {
    std::thread([=] {
      while (!orders->given) {
        ::usleep(200);
      }
      if (ending == Ending::kExits) {
        ::_exit(kExitCode);
      }
      ::execlp(kProgram, kProgram, "1000", nullptr);
    }).detach();
  });
}

// A dump as far as it gets. What failed first, as callers are told; "" for nothing.
std::string dump(pid_t pid, Consistency consistency, TrackerMode tracker) {
  const TempDir dir("/tmp");
  const TempDir live_dir("/tmp");
  SessionOptions options = options_for(pid, dir, CaptureMode::kVmsplice);
  options.tracker = tracker;
  options.consistency = consistency;
  Dump dump(options);
  std::vector<std::string> failed = dump.attach();
  const bool live = tracker != TrackerMode::kNone;
  const auto go_on = [&](auto step) {
    if (failed.empty()) {
      failed = step();
    }
  };
  if (live) {
    go_on([&] { return dump.track(); });
    go_on([&] { return dump.prepare(RoundKind::kLive, live_dir.path()); });
  }
  go_on(
      [&] { return dump.prepare(live ? RoundKind::kFinal : RoundKind::kWhole, dir.path(), true); });
  go_on([&] {
    dump.start_capture(0, live ? 1 : 0);
    return dump.wait_capture();
  });
  dump.detach();
  CHECK_EQ(dump.warnings, kNoErrors);
  for (const std::string& code : failed) {
    if (code != "CANCELLED") {
      return dump.session.explain(Error(code.c_str(), pid, "", 0, "")).code();
    }
  }
  return "";
}

void check_nothing_left_in_new_program(pid_t pid) {
  wait_until("it is the new program",
             [&] { return thread_name(pid, pid) == kProgram && state_of(pid, pid) == 'S'; });
  CHECK_EQ(threads_of(pid).size(), 1u);
  CHECK_EQ(children_of(pid).size(), 0u);
  CHECK(!is_traced(pid, pid));
  for (const Mapping& mapping : read_maps(pid)) {
    CHECK(mapping.readable || !mapping.writable);
  }
}

// False if the dump has fewer steps.
bool check_ending_at(int step, Ending ending, Consistency consistency, TrackerMode tracker) {
  const AdoptsOrphans adopts;
  Shared<Orders> orders;
  Child child = start_target(ending, &*orders);
  g_plan.pid = child.pid();
  g_plan.ending = ending;
  g_plan.orders = &*orders;
  g_plan.steps_left = step;
  for (auto& seen : g_plan.seen) {
    seen = 0;
  }
  steps::g_hook = end_it;
  const std::string code = dump(child.pid(), consistency, tracker);
  steps::g_hook = nullptr;
  if (g_plan.steps_left > 0) {
    CHECK_EQ(code, "");
    return false;
  }
  if (code != "") {
    CHECK_EQ(code, ending == Ending::kExecs ? "TARGET_EXECED" : "TARGET_EXITED");
  }
  if (ending == Ending::kExecs) {
    check_nothing_left_in_new_program(child.pid());
  } else {
    CHECK_EQ(child.finish(), ending == Ending::kExits ? kExitCode : 1000 + SIGKILL);
  }
  // Helper and twin end, too.
  for (const pid_t orphan : children_of(::getpid())) {
    wait_until("it ends", [&] { return orphan == child.pid() || state_of(orphan, orphan) == 'Z'; });
  }
  return true;
}

void check_endings(Consistency consistency, TrackerMode tracker, int least_steps) {
  for (const Ending ending : kEndings) {
    int step = 1;
    while (check_ending_at(step, ending, consistency, tracker)) {
      ++step;
    }
    CHECK(step > least_steps);
  }
}

}  // namespace

TEST(session_target_ends_at_each_step) {
  check_endings(Consistency::kCopy, TrackerMode::kNone, 20);
}

TEST(session_target_ends_at_each_step_of_rounds_with_a_twin) {
  const auto modes = trackers_here();
  if (std::find(modes.begin(), modes.end(), TrackerMode::kUffdWp) == modes.end()) {
    SKIP("no userfaultfd with asynchronous write protection");
  }
  check_endings(Consistency::kTwin, TrackerMode::kUffdWp, 24);
}

}  // namespace sluice::test
