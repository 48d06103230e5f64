// A child that spins with its registers full (hold.h).
#pragma once

#include <string>

#include "check.h"
#include "child.h"
#include "hold.h"
#include "kernel/proc_status.h"
#include "target/target_memory.h"
#include "tools.h"

namespace sluice::test {

class Spinner {
 public:
  explicit Spinner(uint64_t seed, bool with_tiles = false) : Spinner([] {}, seed, with_tiles) {}
  // Runs `body` in the child first.
  template <typename Body>
  Spinner(Body body, uint64_t seed, bool with_tiles)
      : child_(body,
               [this, seed, with_tiles] {
                 const std::string wrong = hold_and_spin(seed, with_tiles);
                 wrong.copy(report_->wrong, sizeof report_->wrong - 1);
                 return wrong.empty() ? 0 : 1;
               }),
        memory_(child_.pid()),
        mask_(status_line(child_.pid(), "SigBlk")) {
    wait_spinning(memory_);
  }
  pid_t pid() const { return child_.pid(); }
  // Throws if anything but what ordinary code does has changed. `after` says what was done.
  void check(const char* after) {
    wait_spinning(memory_);
    CHECK_EQ(read_status(pid())->tracer_pid, 0);
    CHECK_EQ(status_line(pid(), "SigBlk"), mask_);
    stop_spinning(memory_);
    const int result = child_.finish();
    if (result != 0) {
      throw Failure{
          __FILE__, __LINE__,
          std::string(after) + ", changed:" + report_->wrong + ", exit " + std::to_string(result)};
    }
  }

 private:
  Shared<HoldReport> report_;
  Child child_;
  TargetMemory memory_;
  std::string mask_;
};

}  // namespace sluice::test
