#include "restore/thread_restorer.h"

#include <linux/rseq.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"

namespace sluice {
namespace {

constexpr uint64_t kNodeOffset = 20;  // node_id and mm_cid, newer than some headers
// A program with a pool of threads may have thousands of others.
constexpr int kMostNamedThreads = 8;
static_assert(offsetof(struct rseq, cpu_id_start) == 0 && offsetof(struct rseq, cpu_id) == 4);
static_assert(offsetof(struct rseq, flags) + 4 == kNodeOffset);

std::string describe_thread(pid_t tid, const std::string& name) {
  return "thread " + std::to_string(tid) + (name.empty() ? "" : " (" + name + ")");
}

}  // namespace

void require_same_threads(pid_t pid, const std::vector<ThreadState>& wanted,
                          const std::vector<pid_t>& tids) {
  std::string text;
  int others = 0;
  const auto note = [&](pid_t tid, const std::string& name, const char* what) {
    if (++others <= kMostNamedThreads) {
      text += (text.empty() ? "" : ", ") + describe_thread(tid, name) + what;
    }
  };
  for (const pid_t tid : tids) {
    if (std::none_of(wanted.begin(), wanted.end(),
                     [&](const ThreadState& thread) { return thread.tid == tid; })) {
      note(tid, thread_name(pid, tid).value_or(""), " is new");
    }
  }
  for (const ThreadState& thread : wanted) {
    if (std::find(tids.begin(), tids.end(), thread.tid) == tids.end()) {
      note(thread.tid, thread.name, " is gone");
    }
  }
  if (others > kMostNamedThreads) {
    text += " and " + std::to_string(others - kMostNamedThreads) + " more";
  }
  if (others > 0) {
    throw Error("RESTORE_MISMATCH", pid, "", 0, "its threads are others: " + text);
  }
}

ThreadRestorer::ThreadRestorer(const TargetMemory& memory, const std::vector<ThreadState>& wanted,
                               Freeze* freeze)
    : memory_(memory), wanted_(wanted), freeze_(freeze) {}

void ThreadRestorer::require_same_kernel_state(const ThreadState& then,
                                               const ThreadState& now) const {
  const auto refuse = [&](const std::string& what) {
    throw Error("RESTORE_MISMATCH", memory_.pid(), "", 0,
                describe_thread(then.tid, then.name) + what);
  };
  if ((then.rseq ? then.rseq->address : 0) != (now.rseq ? now.rseq->address : 0)) {
    refuse(" has registered its restartable sequences (rseq(2)) otherwise than it had then");
  }
  if (then.robust_list != now.robust_list) {
    refuse(" has registered another list of robust futexes (set_robust_list(2)) than it had then");
  }
  if (!arch::fits_extended_state(then.extended_registers, now.extended_registers)) {
    refuse(" had extended registers of another processor");
  }
}

void ThreadRestorer::check() {
  registers_now_.clear();
  rseqs_.clear();
  for (const ThreadState& now : freeze_->thread_states()) {
    const auto then = std::find_if(wanted_.begin(), wanted_.end(), [&](const ThreadState& thread) {
      return thread.tid == now.tid;
    });
    if (then == wanted_.end()) {
      throw Error("RESTORE_MISMATCH", memory_.pid(), "", 0,
                  describe_thread(now.tid, "") + " is new");
    }
    require_same_kernel_state(*then, now);
    registers_now_[now.tid] = now.registers;
    if (now.rseq) {
      Rseq rseq{now.rseq->address, {}, {}};
      if (memory_.read(RemotePtr(rseq.address), rseq.processor.data(), rseq.processor.size()) &&
          memory_.read(RemotePtr(rseq.address) + kNodeOffset, rseq.node.data(), rseq.node.size())) {
        rseqs_[now.tid] = rseq;
      }
    }
  }
}

// All that takes time first, so that threads get their registers within microseconds of each other.
void ThreadRestorer::restore() {
  const pid_t pid = memory_.pid();
  std::map<pid_t, arch::Registers> registers;
  for (const ThreadState& thread : wanted_) {
    registers[thread.tid] = thread.registers;
    uint8_t code[arch::kCallBytes];
    const uint64_t at = arch::instruction_pointer(thread.registers).value() - sizeof code;
    const bool readable = memory_.read(RemotePtr(at), code, sizeof code);
    arch::restart_without_block(&registers[thread.tid], registers_now_[thread.tid],
                                {code, readable ? sizeof code : 0});
    // The kernel does not write these anew as long as the thread stays where it is, so those of
    // the image must not remain. What it was doing (rseq_cs) does come from the image: if that was
    // a sequence, the kernel aborts it now.
    const auto rseq = rseqs_.find(thread.tid);
    if (rseq != rseqs_.end()) {
      const RemotePtr area(rseq->second.address);
      TargetMemory::write(thread.tid, area, rseq->second.processor.data(), sizeof(Rseq::processor));
      TargetMemory::write(thread.tid, area + kNodeOffset, rseq->second.node.data(),
                          sizeof(Rseq::node));
    }
  }
  for (Tracee* tracee : freeze_->tracees()) {
    const auto then = std::find_if(wanted_.begin(), wanted_.end(), [&](const ThreadState& thread) {
      return thread.tid == tracee->tid();
    });
    if (!tracee->set_extended_state(then->extended_registers) ||
        !tracee->set_signal_mask(then->signal_mask) ||
        !tracee->set_registers(registers[tracee->tid()])) {
      throw Error(
          "SYSTEM", pid, "ptrace", 0,
          "the kernel does not take the registers of " + describe_thread(then->tid, then->name));
    }
    steps::at(steps::Step::kThreadSet);
  }
}

}  // namespace sluice
