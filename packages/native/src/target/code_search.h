// Finds the instructions that an injection needs in the executable memory of a target.
#pragma once

#include <vector>

#include "base/page_range.h"
#include "kernel/proc_maps.h"
#include "target/arch.h"
#include "target/target_memory.h"

namespace sluice {

// Looks in the vDSO first, then in libc, then everywhere. Incomplete if there are none.
arch::Gadgets find_gadgets(const TargetMemory& memory, const std::vector<Mapping>& maps);

// Whether some of them stand in `range`.
bool gadgets_within(const arch::Gadgets& gadgets, PageRange range);

// The instructions still stand where they were found.
bool gadgets_stand(const TargetMemory& memory, const arch::Gadgets& gadgets);

}  // namespace sluice
