#include "target/claim.h"

#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// The last task of a dumper that was killed has its claim for moments after that.
constexpr int kMostLooks = 50;
constexpr auto kLookPause = std::chrono::milliseconds(5);

}  // namespace

ScopedFd claim_target(pid_t pid) {
  ScopedFd fd = open_pagemap(pid);
  const auto lock = [&] { return sys::call_restarting(SYS_flock, fd.get(), LOCK_EX | LOCK_NB); };
  long result = lock();
  for (int look = 1; result == -EWOULDBLOCK && look < kMostLooks; ++look) {
    std::this_thread::sleep_for(kLookPause);
    result = lock();
  }
  if (result == -EWOULDBLOCK) {
    throw Error("ALREADY_TRACED", pid, "flock", EWOULDBLOCK,
                "another dump or restore of it is under way");
  }
  if (result < 0) {
    throw Error("SYSTEM", pid, "flock", static_cast<int>(-result),
                "it cannot be kept from being dumped twice at a time");
  }
  return fd;
}

}  // namespace sluice
