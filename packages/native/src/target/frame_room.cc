#include <algorithm>
#include <iterator>

#include "target/thread_remote.h"

namespace sluice {

std::optional<RemotePtr> frame_room(const std::vector<Mapping>& maps, RemotePtr stack_pointer,
                                    RemotePtr thread_pointer, size_t bytes) {
  const uint64_t sp = stack_pointer.value();
  const auto above = std::upper_bound(maps.begin(), maps.end(), sp,
                                      [](uint64_t at, const Mapping& m) { return at < m.end; });
  if (above == maps.end() || sp < above->start || !above->readable || !above->writable ||
      above->shared) {
    return std::nullopt;
  }
  if (above->path != "[stack]") {
    const bool is_thread_stack =
        !has_file(*above) && thread_pointer.value() > sp && thread_pointer.value() < above->end;
    const bool guarded = above == maps.begin() || std::prev(above)->end < above->start ||
                         (!std::prev(above)->readable && !std::prev(above)->writable);
    if (!is_thread_stack || !guarded) {
      return std::nullopt;
    }
  }
  if (sp - above->start < arch::kRedZoneBytes + bytes + arch::kFrameAlignment) {
    return std::nullopt;
  }
  const uint64_t at = sp - arch::kRedZoneBytes - bytes;
  return RemotePtr(at / arch::kFrameAlignment * arch::kFrameAlignment);
}

}  // namespace sluice
