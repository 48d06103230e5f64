#include "target/frame_room.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "target/arch.h"

namespace sluice {
namespace {

// Locals of zeros may be below the lowest address that is returned to, but not that many.
constexpr size_t kMarginBytes = 32768;
// How far above its stack pointer a handler's signal frame is looked for; few alternate stacks are
// larger.
constexpr uint64_t kHandlerBytes = 1048576;
// How far below the part of its stack that it has touched a thread's stack pointer may be. Nothing
// else is mapped there, so that no other number looks like one.
constexpr uint64_t kUntouchedBytes = uint64_t{128} << 20;

// Whether one of the words on the stack in use points to [start, end).
bool points_into(const TargetMemory& memory, const std::vector<Mapping>& maps, uint64_t sp,
                 uint64_t start, uint64_t end) {
  const auto used = std::find_if(maps.begin(), maps.end(),
                                 [=](const Mapping& m) { return m.start <= sp && sp < m.end; });
  if (used == maps.end()) {
    return true;
  }
  const uint64_t from = sp / sizeof(uint64_t) * sizeof(uint64_t);
  std::vector<uint64_t> words(std::min(used->end - from, kHandlerBytes) / sizeof(uint64_t));
  return !memory.read(RemotePtr(from), words.data(), words.size() * sizeof(uint64_t)) ||
         std::any_of(words.begin(), words.end(),
                     [=](uint64_t word) { return start <= word && word < end; });
}

}  // namespace

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

std::optional<RemotePtr> frame_room_on_left_stack(const TargetMemory& memory,
                                                  const std::vector<Mapping>& maps,
                                                  RemotePtr stack_pointer, size_t bytes) {
  const size_t needed = bytes + kMarginBytes;
  const auto stack =
      std::find_if(maps.begin(), maps.end(), [](const Mapping& m) { return m.path == "[stack]"; });
  const uint64_t sp = stack_pointer.value();
  if (stack == maps.end() || !stack->readable || !stack->writable || stack->shared ||
      (stack->start <= sp && sp < stack->end) || stack->end - stack->start < needed) {
    return std::nullopt;
  }
  std::vector<uint8_t> low(needed);
  const RemotePtr at(stack->start);
  if (!memory.read(at, low.data(), low.size())) {
    return std::nullopt;
  }
  const auto remains = static_cast<std::ptrdiff_t>(arch::bytes_of_return_frame(low, at));
  if (std::any_of(low.begin() + remains, low.end(), [](uint8_t byte) { return byte != 0; }) ||
      points_into(memory, maps, sp, stack->start - kUntouchedBytes, stack->start + needed)) {
    return std::nullopt;
  }
  if (remains != 0) {
    std::fill_n(low.begin(), remains, uint8_t{0});
    TargetMemory::write(memory.pid(), at, low.data(), static_cast<size_t>(remains));
  }
  return at;
}

}  // namespace sluice
