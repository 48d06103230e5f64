#include "hold.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <random>

#include "check.h"
#include "tools.h"

extern "C" {
__attribute__((visibility("hidden"))) sluice::test::HoldState sluice_test_hold_state;
__attribute__((visibility("hidden"))) void sluice_test_hold();
}

namespace sluice::test {

// The assembler below has these numbers.
static_assert(offsetof(HoldState, got) == 120);
static_assert(offsetof(HoldState, stack_pointer) == 240);
static_assert(offsetof(HoldState, in_call) == 248);
static_assert(offsetof(HoldState, features) == 256);
static_assert(offsetof(HoldState, rounds) == 264);
static_assert(offsetof(HoldState, stop) == 272);
static_assert(offsetof(HoldState, wrong_inside) == 280);
static_assert(offsetof(HoldState, wrong_red_zone) == 288);
static_assert(offsetof(HoldState, call_returned) == 296);
static_assert(offsetof(HoldState, extended_want) == 320);
static_assert(offsetof(HoldState, extended_got) == 16704);

// The red zone holds a pattern but for its upper 24 bytes, where the flags are looked at.
__asm__(R"(
        .macro  each_register what
        \what   rax, 0
        \what   rbx, 8
        \what   rcx, 16
        \what   rdx, 24
        \what   rsi, 32
        \what   rdi, 40
        \what   rbp, 48
        \what   r8, 56
        \what   r9, 64
        \what   r10, 72
        \what   r11, 80
        \what   r12, 88
        \what   r13, 96
        \what   r14, 104
        \what   r15, 112
        .endm
        .macro  load name, at
        movq    sluice_test_hold_state+\at(%rip), %\name
        .endm
        .macro  store name, at
        movq    %\name, sluice_test_hold_state+120+\at(%rip)
        .endm
        .macro  compare name, at
        cmpq    %\name, sluice_test_hold_state+\at(%rip)
        jne     .Lhold_wrong
        .endm

        .text
        .globl  sluice_test_hold
        .hidden sluice_test_hold
        .type   sluice_test_hold, @function
sluice_test_hold:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, sluice_test_hold_state+240(%rip)
        movabsq $0x5ed20e5ed20e5ed2, %rax
        movq    $-128, %rcx
1:      movq    %rax, (%rsp,%rcx)
        addq    $8, %rcx
        cmpq    $-24, %rcx
        jne     1b
        movl    sluice_test_hold_state+256(%rip), %eax
        movl    sluice_test_hold_state+260(%rip), %edx
        xrstor64 sluice_test_hold_state+320(%rip)
        cmpq    $0, sluice_test_hold_state+248(%rip)
        jne     .Lhold_call
        each_register load
.Lhold_spin:
        stc
        std
        .fill   64, 1, 0x90
        jnc     .Lhold_wrong
        pushfq
        testl   $0x400, (%rsp)
        leaq    8(%rsp), %rsp
        jz      .Lhold_wrong
        cld
        each_register compare
        cmpq    %rsp, sluice_test_hold_state+240(%rip)
        jne     .Lhold_wrong
        incq    sluice_test_hold_state+264(%rip)
        cmpq    $0, sluice_test_hold_state+272(%rip)
        je      .Lhold_spin
        jmp     .Lhold_out
.Lhold_call:
        each_register load
        syscall
        movq    $1, sluice_test_hold_state+296(%rip)
        jmp     .Lhold_out
.Lhold_wrong:
        movq    $1, sluice_test_hold_state+280(%rip)
.Lhold_out:
        cld
        each_register store
        movl    sluice_test_hold_state+256(%rip), %eax
        movl    sluice_test_hold_state+260(%rip), %edx
        xsave64 sluice_test_hold_state+16704(%rip)
        movabsq $0x5ed20e5ed20e5ed2, %rax
        movq    $-128, %rcx
2:      cmpq    %rax, (%rsp,%rcx)
        jne     3f
        addq    $8, %rcx
        cmpq    $-24, %rcx
        jne     2b
        jmp     4f
3:      movq    $1, sluice_test_hold_state+288(%rip)
4:      fninit
        movq    $0x1f80, -8(%rsp)
        ldmxcsr -8(%rsp)
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret
        .size   sluice_test_hold, . - sluice_test_hold
)");

namespace {

constexpr uint64_t kTiles = 3ull << 17;
constexpr uint64_t kProtectionKeys = 1ull << 9;
constexpr int kTileDataComponent = 18;
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr size_t kStackBytes = 16384;

HoldState& state() { return sluice_test_hold_state; }

struct Component {
  size_t offset;
  size_t bytes;
};
// Of the extended state, in its standard form; 0 and 1 are the legacy area.
Component component(unsigned number) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __cpuid_count(0xd, number, eax, ebx, ecx, edx);
  return {ebx, eax};
}

uint64_t enabled_features() {
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32 | low) & ~kProtectionKeys;
}

void put(size_t at, const void* bytes, size_t count) {
  std::memcpy(state().extended_want + at, bytes, count);
}

// Random bytes wherever any are allowed.
void fill_extended(Random& random, bool with_tiles) {
  std::memset(state().extended_want, 0, sizeof state().extended_want);
  std::memset(state().extended_got, 0, sizeof state().extended_got);
  const auto randomize = [&](size_t at, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      state().extended_want[at + i] = static_cast<uint8_t>(random());
    }
  };
  const uint16_t x87_control[] = {0x0f7f, 0x3800, 0x00ff};
  put(0, x87_control, sizeof x87_control);
  const uint32_t mxcsr = 0xff95;
  put(24, &mxcsr, sizeof mxcsr);
  for (size_t i = 0; i < 8; ++i) {
    randomize(32 + 16 * i, 10);
  }
  randomize(160, 256);
  for (unsigned number = 2; number < 63; ++number) {
    if ((state().features >> number & 1) != 0) {
      const Component part = component(number);
      CHECK(part.offset + part.bytes <= sizeof state().extended_want);
      randomize(part.offset, part.bytes);
    }
  }
  if (with_tiles) {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const configuration;
    static_assert(sizeof configuration == 64);
    put(component(17).offset, &configuration, sizeof configuration);
  }
  put(512, &state().features, sizeof state().features);
}

std::string compare_extended() {
  const auto differ = [](size_t at, size_t bytes) {
    return std::memcmp(state().extended_want + at, state().extended_got + at, bytes) != 0;
  };
  std::string wrong;
  if (differ(0, 6)) {
    wrong += " x87 control";
  }
  if (differ(24, 4)) {
    wrong += " MXCSR";
  }
  for (size_t i = 0; i < 8; ++i) {
    if (differ(32 + 16 * i, 10)) {
      wrong += " st" + std::to_string(i);
    }
  }
  if (differ(160, 256)) {
    wrong += " SSE";
  }
  for (unsigned number = 2; number < 63; ++number) {
    const Component part = component(number);
    if ((state().features >> number & 1) != 0 && differ(part.offset, part.bytes)) {
      wrong += " component " + std::to_string(number);
    }
  }
  return wrong;
}

// Calls the code with a pattern above it on the stack; what differs in the end.
__attribute__((noinline)) std::string run_below_a_pattern(uint64_t changed_by_call) {
  volatile uint64_t above[kStackBytes / 8];
  for (size_t i = 0; i < kStackBytes / 8; ++i) {
    above[i] = i * 0x9e3779b97f4a7c15;
  }
  sluice_test_hold();
  std::string wrong;
  for (size_t i = 0; i < kStackBytes / 8; ++i) {
    if (above[i] != i * 0x9e3779b97f4a7c15) {
      wrong += " stack above at " + std::to_string(i * 8);
      break;
    }
  }
  for (int i = 0; i < kGeneralRegisters; ++i) {
    if ((changed_by_call >> i & 1) == 0 && state().got[i] != state().want[i]) {
      wrong += " general register " + std::to_string(i);
    }
  }
  if (state().wrong_inside != 0) {
    wrong += " (while spinning)";
  }
  if (state().wrong_red_zone != 0) {
    wrong += " red zone";
  }
  return wrong + compare_extended();
}

void prepare(uint64_t seed, bool with_tiles) {
  Random random(seed);
  std::memset(&state(), 0, sizeof state());
  state().features = enabled_features() & ~(with_tiles ? 0 : kTiles);
  for (uint64_t& value : state().want) {
    value = random();
  }
  fill_extended(random, with_tiles);
}

}  // namespace

bool may_use_tiles() { return (enabled_features() & kTiles) == kTiles; }

std::string hold_and_spin(uint64_t seed, bool with_tiles) {
  if (with_tiles && ::syscall(SYS_arch_prctl, kRequestPermission, kTileDataComponent) != 0) {
    return "no permission for tiles";
  }
  prepare(seed, with_tiles);
  return run_below_a_pattern(0);
}

std::string hold_in_call(uint64_t seed, const HeldCall& call, long* result) {
  prepare(seed, false);
  // Places of the arguments and the number in `want`.
  constexpr int kArguments[] = {5, 4, 3, 9, 7, 8};
  state().want[0] = static_cast<uint64_t>(call.number);
  for (int i = 0; i < 6; ++i) {
    state().want[kArguments[i]] = call.args[i];
  }
  state().in_call = 1;
  constexpr uint64_t kChanged = 1 << 0 | 1 << 2 | 1 << 10;  // rax, rcx, r11
  const std::string wrong = run_below_a_pattern(kChanged);
  *result = static_cast<long>(state().got[0]);
  return wrong;
}

void wait_spinning(const TargetMemory& memory) {
  const RemotePtr rounds(reinterpret_cast<uint64_t>(&state().rounds));
  uint64_t first = 0;
  CHECK(memory.read(rounds, &first, sizeof first));
  wait_until("the child spins", [&] {
    uint64_t now = 0;
    CHECK(memory.read(rounds, &now, sizeof now));
    return now > first + 1000;
  });
}

void stop_spinning(const TargetMemory& memory) {
  const uint64_t stop = 1;
  CHECK(TargetMemory::write(memory.pid(), RemotePtr(reinterpret_cast<uint64_t>(&state().stop)),
                            &stop, sizeof stop));
}

}  // namespace sluice::test
