// What the lanes share in a round that may make a twin. The marks of the exchange order who may
// touch what.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "session/consistency.h"
#include "target/twin_remote.h"

namespace sluice {

struct Twinning {
  // Before the gate.
  ConsistencyCosts costs;
  // Found by the lanes until kLooked.
  std::atomic<uint64_t> pages{0};
  // Made by the last lane that looked, before kChosen.
  ConsistencyChoice choice;
  // Made by lane 0 before kTwinTried: the twin, or why there is none though it was chosen.
  std::shared_ptr<Twin> twin;
  std::string failure;
};

}  // namespace sluice
