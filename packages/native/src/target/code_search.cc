#include "target/code_search.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr uint64_t kWindowBytes = uint64_t{1} << 20;
// Instructions may lie across two windows.
constexpr uint64_t kOverlapBytes = 16;
// Of one mapping; a larger one (a JIT's, a browser's) has what it has in the first part, or not.
constexpr uint64_t kMostBytes = uint64_t{64} << 20;

// 0 is looked at first.
int rank(const Mapping& mapping) {
  if (mapping.path == "[vdso]") {
    return 0;
  }
  return mapping.path.find("/libc") != std::string::npos ? 1 : 2;
}

// Code that stays what it is: not writable, and from a file or the kernel.
bool is_candidate(const Mapping& mapping) {
  return mapping.executable && !mapping.writable && !mapping.shared &&
         (has_file(mapping) || mapping.path == "[vdso]");
}

void search(const TargetMemory& memory, const Mapping& mapping, std::vector<uint8_t>* window,
            arch::Gadgets* gadgets) {
  const uint64_t end = std::min(mapping.end, mapping.start + kMostBytes);
  for (uint64_t at = mapping.start; at < end && !gadgets->complete(); at += kWindowBytes) {
    const uint64_t bytes = std::min(end - at, kWindowBytes + kOverlapBytes);
    window->resize(bytes);
    const long got = memory.try_read(RemotePtr(at), window->data(), bytes);
    if (got <= 0) {
      return;
    }
    arch::search_gadgets({window->data(), static_cast<size_t>(got)}, RemotePtr(at), gadgets);
  }
}

}  // namespace

arch::Gadgets find_gadgets(const TargetMemory& memory, const std::vector<Mapping>& maps) {
  std::vector<const Mapping*> candidates;
  for (const Mapping& mapping : maps) {
    if (is_candidate(mapping)) {
      candidates.push_back(&mapping);
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Mapping* a, const Mapping* b) { return rank(*a) < rank(*b); });
  arch::Gadgets gadgets;
  std::vector<uint8_t> window;
  for (const Mapping* mapping : candidates) {
    if (gadgets.complete()) {
      break;
    }
    search(memory, *mapping, &window, &gadgets);
  }
  return gadgets;
}

bool gadgets_within(const arch::Gadgets& gadgets, PageRange range) {
  const auto within = [&](RemotePtr code) {
    return code.value() >= range.start && code.value() < range.end;
  };
  return within(gadgets.syscall_return) || within(gadgets.sigreturn);
}

bool gadgets_stand(const TargetMemory& memory, const arch::Gadgets& gadgets) {
  uint8_t call[arch::kSyscallReturnBytes];
  uint8_t back[arch::kSigreturnBytes];
  return gadgets.complete() && memory.read(gadgets.syscall_return, call, sizeof call) &&
         memory.read(gadgets.sigreturn, back, sizeof back) && arch::is_syscall_return(call) &&
         arch::is_sigreturn(back);
}

}  // namespace sluice
