// Puts pages of the target into a slot: one contract, three ways.
#pragma once

#include <span>

#include "base/page_range.h"
#include "pipe/slot.h"
#include "target/helper_remote.h"
#include "target/target_memory.h"

namespace sluice {

class Feed {
 public:
  virtual ~Feed() = default;
  // Feeds bytes of `ranges` from byte `skip` on, as far as they fit (callers see to that) and can
  // be read. Returns how many, possibly fewer than asked; or the negative errno of the first one:
  // EFAULT if it cannot be read, EAGAIN if the pipe is full, ESRCH if the target is gone.
  virtual long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) = 0;
  // The system call that gets at the pages, for messages.
  virtual const char* call() const = 0;
};

// vmsplice(2) by the helper: the pipe gets references to the target's pages, nothing is copied.
class VmspliceFeed : public Feed {
 public:
  explicit VmspliceFeed(Helper* helper) : helper_(helper) {}
  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override;
  const char* call() const override { return "vmsplice"; }

 private:
  Helper* helper_;
  std::vector<iovec> iovecs_;
};

// process_vm_readv(2) into the slot's buffer, which is vmspliced from the dumper.
class ReadFeed : public Feed {
 public:
  explicit ReadFeed(pid_t pid) : pid_(pid) {}
  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override;
  const char* call() const override { return "process_vm_readv"; }

 private:
  pid_t pid_;
  std::vector<iovec> iovecs_;
};

// /proc/PID/mem, which reads whatever the protection.
class ForcedFeed : public Feed {
 public:
  explicit ForcedFeed(const TargetMemory* memory) : memory_(memory) {}
  long feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) override;
  const char* call() const override { return "pread64"; }

 private:
  const TargetMemory* memory_;
};

}  // namespace sluice
