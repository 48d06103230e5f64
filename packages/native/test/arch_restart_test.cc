// How a thread goes on with a system call that was interrupted at another time.
#include <sys/syscall.h>

#include <cerrno>
#include <vector>

#include "check.h"
#include "target/arch.h"

namespace sluice::test {
namespace {

constexpr int kRestartSys = 512;
constexpr int kRestartNoHand = 514;
constexpr int kRestartBlock = 516;

arch::Registers interrupted_in(long call, int result) {
  arch::Registers registers{};
  registers.cs = 0x33;
  registers.orig_rax = static_cast<unsigned long long>(call);
  registers.rax = static_cast<unsigned long long>(-result);
  registers.rip = 0x401000;
  registers.rsp = 0x7ffe0000;
  registers.rdi = 0x7ffe1000;
  return registers;
}

// mov $number, %eax; syscall
std::vector<uint8_t> code_that_makes(uint8_t number) { return {0xb8, number, 0, 0, 0, 0x0f, 0x05}; }

struct Outcome {
  long call;
  long result;
  bool operator==(const Outcome&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
    return out << "call " << outcome.call << " result " << outcome.result;
  }
};

Outcome restart(arch::Registers then, const arch::Registers& now,
                const std::vector<uint8_t>& code = {}) {
  arch::restart_without_block(&then, now, code);
  return {static_cast<long>(then.orig_rax), static_cast<long>(then.rax)};
}

const arch::Registers kWorking = interrupted_in(-1, 0);

}  // namespace

TEST(restart_of_calls_that_need_no_block_is_the_kernels) {
  CHECK_EQ(restart(interrupted_in(SYS_read, kRestartSys), kWorking),
           (Outcome{SYS_read, -kRestartSys}));
  CHECK_EQ(restart(interrupted_in(-1, kRestartBlock), kWorking), (Outcome{-1, -kRestartBlock}));
  CHECK_EQ(restart(interrupted_in(SYS_poll, EINTR), kWorking), (Outcome{SYS_poll, -EINTR}));
}

TEST(restart_from_arguments) {
  CHECK_EQ(restart(interrupted_in(SYS_nanosleep, kRestartBlock), kWorking),
           (Outcome{SYS_nanosleep, -kRestartNoHand}));
  // In another call, or in the same with other arguments.
  for (const long call : {long{SYS_read}, long{SYS_nanosleep}}) {
    arch::Registers now = interrupted_in(call, kRestartBlock);
    now.rdi += 16;
    CHECK_EQ(restart(interrupted_in(SYS_nanosleep, kRestartBlock), now),
             (Outcome{SYS_nanosleep, -kRestartNoHand}));
  }
  CHECK_EQ(restart(interrupted_in(SYS_nanosleep, kRestartBlock),
                   interrupted_in(SYS_nanosleep, kRestartSys)),
           (Outcome{SYS_nanosleep, -kRestartNoHand}));
}

TEST(restart_is_left_to_the_kernel_in_the_same_call) {
  for (const long then : {long{SYS_poll}, long{SYS_restart_syscall}}) {
    for (const long now : {long{SYS_poll}, long{SYS_restart_syscall}}) {
      CHECK_EQ(restart(interrupted_in(then, kRestartBlock), interrupted_in(now, kRestartBlock)),
               (Outcome{now, -kRestartBlock}));
    }
  }
}

TEST(restart_finds_the_call_in_the_code) {
  const arch::Registers then = interrupted_in(SYS_restart_syscall, kRestartBlock);
  for (const long call : {SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex}) {
    CHECK_EQ(restart(then, kWorking, code_that_makes(static_cast<uint8_t>(call))),
             (Outcome{call, -kRestartNoHand}));
  }
  std::vector<uint8_t> longer = code_that_makes(SYS_poll);
  longer.insert(longer.begin(), 0x90);
  std::vector<uint8_t> other = code_that_makes(SYS_poll);
  other[0] = 0xb9;
  std::vector<uint8_t> no_call = code_that_makes(SYS_poll);
  no_call[6] = 0x0b;
  for (const auto& code : {code_that_makes(SYS_read), longer, other, no_call, {}}) {
    CHECK_EQ(restart(then, kWorking, code), (Outcome{SYS_restart_syscall, -EINTR}));
  }
}

TEST(extended_state_fits_where_the_processor_has_its_registers) {
  constexpr size_t kOffered = 464;
  constexpr size_t kInUse = 512;
  std::vector<uint8_t> now(2000);
  now[kOffered] = 7;
  std::vector<uint8_t> then = now;
  then[kInUse] = 5;
  CHECK(arch::fits_extended_state(then, now));
  then[kInUse + 1] = 1;
  CHECK(!arch::fits_extended_state(then, now));
  then[kInUse + 1] = 0;
  then.push_back(0);
  CHECK(!arch::fits_extended_state(then, now));
  CHECK(!arch::fits_extended_state({}, now));
}

}  // namespace sluice::test
