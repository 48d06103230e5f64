// For as long as it lives, a task (by default the calling one) runs before all ordinary ones:
// nothing else on the machine should prolong a freeze. Where that is not permitted (CAP_SYS_NICE,
// sched(7)) it does nothing. Not to be used around waiting for a task that may need this one's
// processor.
#pragma once

#include <sched.h>

#include "kernel/syscalls.h"

namespace sluice {

class Urgent {
 public:
  explicit Urgent(bool wanted, pid_t task = 0) : task_(task) {
    const sched_param first{1};
    before_ = wanted ? sys::call(SYS_sched_getscheduler, task) : -1;
    // Only an ordinary task goes back to what it was without further ado.
    raised_ =
        before_ == SCHED_OTHER && sys::call(SYS_sched_setscheduler, task, SCHED_FIFO, &first) >= 0;
  }
  ~Urgent() {
    if (raised_) {
      const sched_param none{0};
      sys::call(SYS_sched_setscheduler, task_, before_, &none);
    }
  }
  Urgent(const Urgent&) = delete;
  Urgent& operator=(const Urgent&) = delete;

 private:
  pid_t task_;
  long before_ = -1;
  bool raised_ = false;
};

}  // namespace sluice
