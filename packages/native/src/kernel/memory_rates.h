// How fast this machine copies pages, and makes copy-on-write copies of them.
#pragma once

namespace sluice {

// Microseconds for a page of 4 KiB, with one thread.
struct MemoryRates {
  double copy_us = 0.7;    // process_vm_readv(2), scattered pages
  double clone_us = 0.08;  // clone(2) without CLONE_VM
};

// Measured with processes of our own, once: the first call takes some ten milliseconds. Where
// nothing can be measured, the figures of some machine.
const MemoryRates& memory_rates();

}  // namespace sluice
