#include "target/thread_state.h"

#include "base/error.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

std::optional<ProcStatus> status_if_readable(pid_t pid, pid_t tid) {
  try {
    return read_thread_status(pid, tid);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

ThreadState thread_state(pid_t pid, Tracee* tracee, const arch::Registers& registers) {
  ThreadState thread;
  thread.tid = tracee->tid();
  thread.registers = registers;
  thread.extended_registers = tracee->extended_state();
  tracee->get_signal_mask(&thread.signal_mask);
  thread.rseq = tracee->rseq();
  uint64_t head = 0;
  size_t bytes = 0;
  if (sys::call(SYS_get_robust_list, thread.tid, &head, &bytes) == 0) {
    thread.robust_list = head;
  }
  // Seldom, so that the file is worth its time.
  if (tracee->has_pending_signals()) {
    const auto status = status_if_readable(pid, thread.tid);
    thread.pending_signals = status ? status->pending : 0;
  }
  return thread;
}

void name_thread(pid_t pid, pid_t namespace_pid, ThreadState* thread) {
  if (const auto status = status_if_readable(pid, thread->tid)) {
    thread->name = status->name;
    thread->namespace_tid = status->ns_pids.back();
  } else if (namespace_pid == pid) {
    thread->namespace_tid = thread->tid;  // it has ended, but has no other id anywhere
  }
}

}  // namespace sluice
