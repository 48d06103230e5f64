// Instructions looked for in memory that a hostile target wrote, and what it has in its registers,
// its ELF header and its extended state. What is found stands where it is said to stand.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "input.h"
#include "target/code_search.h"

namespace sluice::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kAreaBytes = 4096;

uint8_t* area() {
  static uint8_t* const start = [] {
    void* at =
        ::mmap(nullptr, kAreaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<uint8_t*>(at);
  }();
  return start;
}

Bytes bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// The first place in `code` where `is` holds, or the size.
template <typename Is>
size_t first(const Bytes& code, Is is) {
  size_t at = 0;
  while (at < code.size() && !is(std::span(code).subspan(at))) {
    ++at;
  }
  return at;
}

void in_bytes(const Bytes& code) {
  arch::Gadgets found;
  const RemotePtr base(0x1000);
  arch::search_gadgets(code, base, &found);
  const size_t call = first(code, arch::is_syscall_return);
  REQUIRE(found.syscall_return == (call < code.size() ? base + call : RemotePtr()));
  const size_t back = first(code, arch::is_sigreturn);
  REQUIRE(static_cast<bool>(found.sigreturn) == (back < code.size()));
  if (found.sigreturn) {
    REQUIRE(arch::is_sigreturn(std::span(code).subspan(found.sigreturn.value() - base.value())));
  }
}

// Through /proc/PID/mem, with mappings that end where nothing can be read.
void in_memory(Input* input) {
  static const TargetMemory memory(::getpid());
  const uint64_t beyond = input->flag() ? kAreaBytes : 0;
  const bool at_end = input->flag();
  const Bytes code = bytes_of(input->rest().substr(0, kAreaBytes));
  const size_t at = at_end ? kAreaBytes - code.size() : 0;
  std::copy(code.begin(), code.end(), area() + at);
  Mapping mapping;
  mapping.start = reinterpret_cast<uint64_t>(area());
  mapping.end = mapping.start + kAreaBytes + beyond;
  mapping.executable = true;
  mapping.inode = 1;
  const arch::Gadgets found = find_gadgets(memory, {mapping});
  REQUIRE(static_cast<bool>(found.syscall_return) ==
          (first(code, arch::is_syscall_return) < code.size()));
  REQUIRE(static_cast<bool>(found.sigreturn) == (first(code, arch::is_sigreturn) < code.size()));
  REQUIRE(gadgets_stand(memory, found) == found.complete());
  std::fill_n(area() + at, code.size(), uint8_t{0});
}

void in_state(Input* input) {
  arch::Registers registers{};
  registers.orig_rax = input->word();
  registers.rax = input->flag() ? uint64_t{0} - input->below(600) : input->word();
  registers.rsp = input->word();
  registers.rip = input->word();
  arch::Registers now = registers;
  now.rip += input->below(2);
  Bytes state = bytes_of(input->rest());
  REQUIRE(arch::fits_extended_state(state, state) || state.size() >= 576);
  REQUIRE(!arch::fits_extended_state(state, Bytes(state.size() + 1)));
  const Bytes code(state.begin(),
                   state.begin() + static_cast<long>(std::min(state.size(), arch::kCallBytes)));
  arch::Registers again = registers;
  arch::restart_without_block(&again, now, code);
  REQUIRE(again.rip == registers.rip && again.rsp == registers.rsp);
  arch::restart_if_merely_stopped(&registers);
  arch::is_native_executable(state);
  const size_t whole = state.size();
  arch::keep_restorable(&state);
  REQUIRE(state.size() <= whole);
  const RemotePtr at(0x7f0000000000);
  const Bytes frame = arch::return_frame(at, registers, state, input->word(), {});
  REQUIRE(frame.size() == arch::return_frame_bytes(state.size()));
}

}  // namespace

void run(Input input) {
  switch (input.below(64)) {
    case 0:
      return in_memory(&input);  // slower
    case 1:
      return in_state(&input);
    default:
      return in_bytes(bytes_of(input.rest()));
  }
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  sluice::fuzz::run({data, bytes});
  return 0;
}
