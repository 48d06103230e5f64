// What a dumper has: a tracer task, and the code and memory of one target.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "child.h"
#include "kernel/proc_maps.h"
#include "kernel/steps.h"
#include "target/code_search.h"
#include "target/helper_remote.h"
#include "target/target_memory.h"
#include "target/thread_remote.h"
#include "target/tracer_task.h"
#include "tools.h"

namespace sluice::test {

using arch::make_call;

// Far beyond what anything here takes: a limit that is hit is a failure.
inline Deadline far_off() { return Clock::now() + std::chrono::minutes(1); }

struct Rig {
  explicit Rig(pid_t pid, DespiteFilter despite_filter = DespiteFilter::kNo)
      : memory(pid), despite(despite_filter) {}

  // Runs `work` on a RemoteThread of the target, in the tracer task.
  template <typename Work>
  auto in_thread(Work work, Deadline deadline = far_off()) {
    return task.run([&] {
      const auto thread = stop_thread(deadline);
      return work(*thread);
    });
  }

  // Only in the tracer task.
  std::unique_ptr<RemoteThread> stop_thread(Deadline deadline = far_off()) {
    maps = read_maps(memory.pid());
    gadgets = find_gadgets(memory, maps);
    return std::make_unique<RemoteThread>(memory, gadgets, maps, deadline, despite);
  }
  std::unique_ptr<Helper> start_helper() {
    double stopped_us = 0;
    auto thread = stop_thread();
    return Helper::start(std::move(thread), memory, gadgets, maps, &stopped_us);
  }

  TargetMemory memory;
  DespiteFilter despite;
  TracerTask task;
  std::vector<Mapping> maps;
  arch::Gadgets gadgets;
};

// A dumper process that dies by SIGKILL when it comes to `step` for the `times`th time. It stands
// at that step until it is dead, and then its tracer task is too. `work(rig)` runs in that task.
class DyingDumper {
 public:
  template <typename Work>
  DyingDumper(pid_t target, steps::Step step, int times, Work work,
              DespiteFilter despite = DespiteFilter::kNo)
      : child_([] {},
               [&]() -> int {
                 dumper_ = ::getpid();
                 step_ = step;
                 times_ = times;
                 steps::g_hook = &DyingDumper::on_step;
                 Rig rig(target, despite);
                 *tracer_ = rig.task.pid();
                 rig.task.run([&] { work(rig); });
                 return 1;
               }) {}

  // Waits for its death and that of its tracer task. Needs an AdoptsOrphans around.
  void wait_dead() {
    const int result = child_.finish();
    if (result != 1000 + SIGKILL) {
      throw Failure{__FILE__, __LINE__,
                    "the dumper did not come to the step, but to " + std::to_string(result)};
    }
    reap_orphan(*tracer_);
  }

 private:
  static void on_step(steps::Step step) {
    if (step == step_ && --times_ == 0) {
      ::kill(dumper_, SIGKILL);
      for (;;) {
        ::pause();
      }
    }
  }

  static inline pid_t dumper_;
  static inline steps::Step step_;
  static inline int times_;
  Shared<std::atomic<pid_t>> tracer_;
  Child child_;
};

// Every step of a few calls made in a thread.
struct Death {
  const char* name;
  steps::Step step;
  int times;
};
inline constexpr Death kDeaths[] = {
    {"stopped", steps::Step::kStopped, 1},
    {"frame written", steps::Step::kFrameWritten, 1},
    {"registers set", steps::Step::kRegistersSet, 1},
    {"signals blocked", steps::Step::kSignalsBlocked, 1},
    {"at the return", steps::Step::kReturnEntered, 1},
    {"at the entry", steps::Step::kCallEntered, 1},
    {"at the exit", steps::Step::kCallLeft, 1},
    {"between calls", steps::Step::kRegistersSet, 2},
    {"at a later exit", steps::Step::kCallLeft, 3},
    {"mask returned", steps::Step::kMaskReturned, 1},
    {"put back", steps::Step::kPutBack, 1},
};
inline void three_calls(Rig& rig) {
  const auto thread = rig.stop_thread();
  for (int i = 0; i < 3; ++i) {
    thread->call(make_call(SYS_getppid));
  }
}

}  // namespace sluice::test
