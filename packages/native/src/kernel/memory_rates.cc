#include "kernel/memory_rates.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/page_range.h"
#include "kernel/probe_child.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// Enough to stand out from what else is in the process that is cloned, and to leave its caches.
constexpr size_t kPages = 8192;
constexpr size_t kRegion = kPages * kPageBytes;
constexpr size_t kPagesPerRead = 512;
constexpr size_t kReads = 4;
constexpr int kTries = 5;

// Only raw calls: all of this runs in a probe child.
long raw(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  return sys::detail::raw(number, a, b, c, d, e, f);
}

// Of processor time: what else runs on the machine does not count.
double now_us() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

char* map_memory() {
  const long at =
      raw(SYS_mmap, 0, kRegion, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (at < 0) {
    return nullptr;
  }
  raw(SYS_madvise, at, kRegion, MADV_NOHUGEPAGE);
  return reinterpret_cast<char*>(at);
}

void touch(char* memory) {
  for (size_t i = 0; i < kPages; ++i) {
    *const_cast<volatile char*>(memory + i * kPageBytes) = 1;
  }
}

// Of one clone of this process; 0 if there can be none.
double clone_us() {
  const double start = now_us();
  const long pid = raw(SYS_clone);
  if (pid == 0) {
    for (;;) {
      raw(SYS_exit_group);
    }
  }
  const double took = now_us() - start;
  if (pid < 0) {
    return 0;
  }
  raw(SYS_wait4, pid, 0, __WALL);
  return took;
}

// Every second page.
double read_us(char* from, char* to) {
  iovec pages[kPagesPerRead];
  const iovec local{to, kPagesPerRead * kPageBytes};
  const double start = now_us();
  for (size_t read = 0; read < kReads; ++read) {
    for (size_t i = 0; i < kPagesPerRead; ++i) {
      pages[i] = {from + (read * kPagesPerRead + i) * 2 * kPageBytes, kPageBytes};
    }
    if (raw(SYS_process_vm_readv, raw(SYS_getpid), reinterpret_cast<long>(&local), 1,
            reinterpret_cast<long>(pages), kPagesPerRead) < 0) {
      return 0;
    }
  }
  return (now_us() - start) / (kReads * kPagesPerRead);
}
static_assert(kReads * kPagesPerRead * 2 <= kPages);

// The memory that is cloned beside ours is that of the whole process, which the difference cancels.
void measure(void* shared) {
  double without = 1e9;
  double with = 1e9;
  double reading = 1e9;
  clone_us();
  for (int i = 0; i < kTries; ++i) {
    without = std::min(without, clone_us());
  }
  char* const memory = map_memory();
  char* const buffer = map_memory();
  if (memory == nullptr || buffer == nullptr) {
    return;
  }
  for (int i = 0; i < kTries; ++i) {
    touch(memory);
    with = std::min(with, clone_us());
  }
  for (size_t i = 0; i < kPagesPerRead; ++i) {
    buffer[i * kPageBytes] = 1;
  }
  for (int i = 0; i < kTries; ++i) {
    reading = std::min(reading, read_us(memory, buffer));
  }
  auto* const rates = static_cast<MemoryRates*>(shared);
  if (with > without && without > 0) {
    rates->clone_us = (with - without) / kPages;
  }
  if (reading > 0) {
    rates->copy_us = reading;
  }
}

MemoryRates measured() {
  void* const shared =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) {
    return {};
  }
  auto* const rates = new (shared) MemoryRates;
  try {
    ProbeChild(measure, rates).finish();
  } catch (const Error&) {
    // What some machine does will have to do.
  }
  const MemoryRates found = *rates;
  ::munmap(shared, kPageBytes);
  return found;
}

}  // namespace

const MemoryRates& memory_rates() {
  static const MemoryRates rates = measured();
  return rates;
}

}  // namespace sluice
