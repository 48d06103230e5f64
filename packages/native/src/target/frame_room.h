// Where the return frame of a thread may be put (thread_remote.h). A wrong yes destroys live data
// of the target, so the place must be known to be part of a stack that nobody uses.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "base/remote_ptr.h"
#include "kernel/proc_maps.h"
#include "target/target_memory.h"

namespace sluice {

// Below the red zone of a thread with these registers, for a frame of `bytes`. Its stack must be
// the [stack] of the main thread, or a mapping with a guard below that holds the thread's own
// control block above the stack pointer, as libc lays out its threads. None for coroutines,
// goroutines and handlers on an alternate stack. Pure.
std::optional<RemotePtr> frame_room(const std::vector<Mapping>& maps, RemotePtr stack_pointer,
                                    RemotePtr thread_pointer, size_t bytes);

// For the main thread while it is stopped elsewhere, with the mappings of that time: at the low end
// of the [stack] that it left, as goroutines and coroutines do. None if that cannot be known to be
// unused:
//  - A thread that left its stack by a call left an address to return to, below everything that it
//    will use again. So zeros from the start of the mapping on are below that; a few are no proof.
//  - A signal handler may have interrupted it anywhere, also where zeros were the lowest that it
//    used. Then the signal frame, above the handler's stack pointer, has the one of before.
// Removes the frame of a dumper that died. Faults pages of zeros in.
std::optional<RemotePtr> frame_room_on_left_stack(const TargetMemory& memory,
                                                  const std::vector<Mapping>& maps,
                                                  RemotePtr stack_pointer, size_t bytes);

}  // namespace sluice
