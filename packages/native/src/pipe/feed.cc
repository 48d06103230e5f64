#include "pipe/feed.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "kernel/steps.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// iovecs for `ranges` without their first `skip` bytes; at most kMostIovecs.
void fill_iovecs(std::span<const PageRange> ranges, uint64_t skip, std::vector<iovec>* iovecs) {
  iovecs->clear();
  for (const PageRange& range : ranges) {
    if (skip >= range.bytes()) {
      skip -= range.bytes();
      continue;
    }
    if (iovecs->size() == kMostIovecs) {
      return;
    }
    iovecs->push_back({reinterpret_cast<void*>(range.start + skip), range.bytes() - skip});
    skip = 0;
  }
}

// The first `bytes` of the slot's free buffer space were filled.
long copied(Slot* slot, uint64_t bytes) {
  return slot->copied ? static_cast<long>(bytes) : slot->push(slot->bytes, bytes);
}

}  // namespace

long VmspliceFeed::feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) {
  fill_iovecs(ranges, skip, &iovecs_);
  const long fed = helper_->vmsplice(slot->helper_fd, iovecs_);
  steps::at(steps::Step::kPagesPinned);
  return fed;
}

long ReadFeed::feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) {
  fill_iovecs(ranges, skip, &iovecs_);
  const iovec local{slot->buffer.get(slot->capacity) + slot->bytes, slot->room()};
  const long got = sys::call_restarting(SYS_process_vm_readv, pid_, &local, 1, iovecs_.data(),
                                        iovecs_.size(), 0);
  return got <= 0 ? got : copied(slot, static_cast<uint64_t>(got));
}

long ForcedFeed::feed(Slot* slot, std::span<const PageRange> ranges, uint64_t skip) {
  for (const PageRange& range : ranges) {
    if (skip >= range.bytes()) {
      skip -= range.bytes();
      continue;
    }
    const uint64_t wanted = std::min(range.bytes() - skip, slot->room());
    const long got = memory_->try_read(RemotePtr(range.start + skip),
                                       slot->buffer.get(slot->capacity) + slot->bytes, wanted);
    if (got == -EIO) {
      return -EFAULT;  // how /proc/PID/mem says it
    }
    return got <= 0 ? got : copied(slot, static_cast<uint64_t>(got));
  }
  return 0;
}

}  // namespace sluice
