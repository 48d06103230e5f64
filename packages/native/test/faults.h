// Faults that are forced through the system-call seam.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernel/syscalls.h"

namespace sluice::test {

// Set only while it lives, so that nothing else is hit.
class Faults {
 public:
  explicit Faults(std::vector<sys::Fault> faults) { sys::set_faults(std::move(faults)); }
  ~Faults() { sys::set_faults({}); }
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;
};

inline sys::Fault fails(long number, int errnum, int64_t skip = 0, int64_t times = -1) {
  sys::Fault fault;
  fault.number = number;
  fault.errnum = errnum;
  fault.skip = skip;
  fault.times = times;
  return fault;
}

inline sys::Fault caps(long number, uint64_t bytes) {
  sys::Fault fault;
  fault.number = number;
  fault.cap_bytes = bytes;
  return fault;
}

}  // namespace sluice::test
