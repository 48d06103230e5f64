// The signal frame and the results of interrupted calls, against the kernel's own headers, which do
// not go together with <signal.h>.
#include <asm/sigcontext.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "check.h"
#include "target/arch.h"

namespace sluice::test {
namespace {

// The kernel's struct rt_sigframe, from its public headers where they have it: <asm/ucontext.h> has
// the mask last because it may grow, and leaves out the return address.
struct KernelFrame {
  uint64_t return_address;
  uint64_t uc_flags;
  uint64_t uc_link;
  uint64_t uc_stack[3];
  sigcontext_64 context;
  uint64_t mask;
};
static_assert(sizeof(sigcontext_64) == 256);

arch::Registers sample_registers() {
  arch::Registers registers{};
  auto* words = reinterpret_cast<unsigned long long*>(&registers);
  for (size_t i = 0; i < sizeof registers / sizeof *words; ++i) {
    words[i] = 0x1111 * (i + 1);
  }
  registers.orig_rax = ~0ull;
  return registers;
}

const arch::Gadgets kGadgets{RemotePtr(0x7000), RemotePtr(0x8000)};

KernelFrame frame_of(const arch::Registers& registers) {
  const auto bytes = arch::return_frame(RemotePtr(0x10000), registers, {}, 0, kGadgets);
  KernelFrame frame;
  CHECK(bytes.size() >= sizeof frame);
  std::memcpy(&frame, bytes.data(), sizeof frame);
  return frame;
}

}  // namespace

TEST(arch_frame_is_laid_out_as_the_kernel_reads_it) {
  const arch::Registers registers = sample_registers();
  const auto bytes =
      arch::return_frame(RemotePtr(0x10000), registers, {}, 0x123456789abcdef0, kGadgets);
  CHECK_EQ(bytes.size(), arch::return_frame_bytes(0));
  KernelFrame frame;
  std::memcpy(&frame, bytes.data(), sizeof frame);
  const sigcontext_64& context = frame.context;
  CHECK_EQ(frame.return_address, kGadgets.sigreturn.value());
  CHECK_EQ(frame.mask, 0x123456789abcdef0u);
  const std::pair<uint64_t, uint64_t> pairs[] = {{context.r8, registers.r8},
                                                 {context.r9, registers.r9},
                                                 {context.r10, registers.r10},
                                                 {context.r11, registers.r11},
                                                 {context.r12, registers.r12},
                                                 {context.r13, registers.r13},
                                                 {context.r14, registers.r14},
                                                 {context.r15, registers.r15},
                                                 {context.di, registers.rdi},
                                                 {context.si, registers.rsi},
                                                 {context.bp, registers.rbp},
                                                 {context.bx, registers.rbx},
                                                 {context.dx, registers.rdx},
                                                 {context.ax, registers.rax},
                                                 {context.cx, registers.rcx},
                                                 {context.sp, registers.rsp},
                                                 {context.ip, registers.rip},
                                                 {context.flags, registers.eflags},
                                                 {context.cs, static_cast<uint16_t>(registers.cs)},
                                                 {context.ss, static_cast<uint16_t>(registers.ss)}};
  for (const auto& [stored, wanted] : pairs) {
    CHECK_EQ(stored, wanted);
  }
  CHECK_EQ(context.fpstate, 0u);
}

TEST(arch_frame_points_to_the_extended_state) {
  std::vector<uint8_t> state(2696);
  for (size_t i = 0; i < state.size(); ++i) {
    state[i] = static_cast<uint8_t>(i * 7);
  }
  const uint64_t features = 0xe7;
  std::memcpy(&state[464], &features, sizeof features);
  const RemotePtr at(0x10000);
  const auto bytes = arch::return_frame(at, sample_registers(), state, 0, kGadgets);
  CHECK_EQ(bytes.size(), arch::return_frame_bytes(state.size()));
  KernelFrame frame;
  std::memcpy(&frame, bytes.data(), sizeof frame);
  CHECK_EQ(frame.uc_flags & 1, 1u);  // UC_FP_XSTATE
  CHECK_EQ(frame.context.fpstate % 64, 0u);
  const uint8_t* stored = bytes.data() + (frame.context.fpstate - at.value());
  _fpx_sw_bytes software;
  std::memcpy(&software, stored + offsetof(_fpstate_64, sw_reserved), sizeof software);
  CHECK_EQ(software.magic1, unsigned{FP_XSTATE_MAGIC1});
  CHECK_EQ(software.xfeatures, features);
  CHECK_EQ(software.xstate_size, state.size());
  CHECK_EQ(software.extended_size, state.size() + FP_XSTATE_MAGIC2_SIZE);
  uint32_t magic2 = 0;
  std::memcpy(&magic2, stored + state.size(), sizeof magic2);
  CHECK_EQ(magic2, unsigned{FP_XSTATE_MAGIC2});
  // All else is the state itself.
  CHECK(std::equal(state.begin(), state.begin() + 464, stored));
  CHECK(std::equal(state.begin() + 512, state.end(), stored + 512));
}

TEST(arch_frame_makes_an_interrupted_call_again) {
  constexpr int kRestartSys = 512, kRestartNoIntr = 513, kRestartNoHand = 514, kRestartBlock = 516;
  arch::Registers registers = sample_registers();
  registers.orig_rax = SYS_read;
  for (const int result : {kRestartSys, kRestartNoIntr, kRestartNoHand, kRestartBlock}) {
    registers.rax = static_cast<uint64_t>(-result);
    CHECK_EQ(frame_of(registers).context.ax, uint64_t{SYS_read});
    CHECK_EQ(frame_of(registers).context.ip, registers.rip - 2);
  }
  // A call that is over stays over, and the same number is no result outside of a call.
  for (const int64_t result : {int64_t{0}, int64_t{7}, int64_t{-EINTR}, int64_t{-515}}) {
    registers.rax = static_cast<uint64_t>(result);
    CHECK_EQ(frame_of(registers).context.ax, registers.rax);
    CHECK_EQ(frame_of(registers).context.ip, registers.rip);
  }
  registers.rax = static_cast<uint64_t>(-kRestartSys);
  registers.orig_rax = ~0ull;
  CHECK_EQ(frame_of(registers).context.ax, registers.rax);
  CHECK_EQ(frame_of(registers).context.ip, registers.rip);
}

TEST(arch_calls_that_a_stop_makes_fail_are_restarted) {
  struct Case {
    long number;
    bool restarts;
  };
  // signal(7), "Interruption of system calls and library functions by stop signals", and sockets
  // with a timeout. The others restart by themselves, or cannot be made twice.
  const Case cases[] = {
      {SYS_epoll_wait, true},   {SYS_epoll_pwait, true},    {SYS_epoll_pwait2, true},
      {SYS_semop, true},        {SYS_semtimedop, true},     {SYS_rt_sigtimedwait, true},
      {SYS_io_getevents, true}, {SYS_read, true},           {SYS_recvfrom, true},
      {SYS_recvmsg, true},      {SYS_recvmmsg, true},       {SYS_accept, true},
      {SYS_accept4, true},      {SYS_sendto, true},         {SYS_sendmsg, true},
      {SYS_connect, true},      {SYS_close, false},         {SYS_nanosleep, false},
      {SYS_poll, false},        {SYS_rt_sigsuspend, false}, {SYS_pause, false},
      {SYS_getpid, false}};
  for (const Case& c : cases) {
    arch::Registers registers = sample_registers();
    registers.orig_rax = static_cast<uint64_t>(c.number);
    registers.rax = static_cast<uint64_t>(-EINTR);
    const arch::Registers before = registers;
    CHECK_EQ(arch::restart_if_merely_stopped(&registers), c.restarts);
    arch::Registers expected = before;
    expected.rax = static_cast<uint64_t>(c.restarts ? -514 : -EINTR);  // ERESTARTNOHAND
    CHECK(std::memcmp(&registers, &expected, sizeof registers) == 0);
    // With another result, or outside of a call, nothing is changed.
    for (const int64_t result : {int64_t{0}, int64_t{-EAGAIN}, int64_t{-512}}) {
      registers = before;
      registers.rax = static_cast<uint64_t>(result);
      CHECK(!arch::restart_if_merely_stopped(&registers));
    }
    registers = before;
    registers.orig_rax = ~0ull;
    CHECK(!arch::restart_if_merely_stopped(&registers));
    CHECK_EQ(registers.rax, before.rax);
  }
}

}  // namespace sluice::test
