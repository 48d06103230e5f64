// Which registers decide whether a thread would go on as it did at another time.
#include <sys/syscall.h>

#include "check.h"
#include "target/arch.h"

namespace sluice::test {
namespace {

arch::Registers waiting_in(long call) {
  arch::Registers registers{};
  registers.cs = 0x33;
  registers.orig_rax = static_cast<unsigned long long>(call);
  registers.rax = static_cast<unsigned long long>(-512);  // to be restarted
  registers.rip = 0x401000;
  registers.rsp = 0x7ffe0000;
  return registers;
}

TEST(registers_differ_where_a_thread_stands_and_in_what_calls_keep) {
  const arch::Registers was = waiting_in(SYS_read);
  CHECK_EQ(arch::differing_registers(was, was), "");
  arch::Registers is = was;
  is.rip += 2;
  is.rsp -= 8;
  CHECK_EQ(arch::differing_registers(was, is), "rip rsp");
  is = was;
  is.rbx = 1;
  is.r12 = 1;
  is.fs_base = 1;
  CHECK_EQ(arch::differing_registers(was, is), "fs_base rbx r12");
}

TEST(registers_differ_in_the_arguments_of_the_call_and_in_no_others) {
  const arch::Registers was = waiting_in(SYS_read);
  arch::Registers is = was;
  is.r10 = is.r8 = is.r9 = is.rcx = is.r11 = is.eflags = 1;
  CHECK_EQ(arch::differing_registers(was, is), "");
  is.rsi = 0x1000;
  is.rdx = 8;
  CHECK_EQ(arch::differing_registers(was, is), "rsi rdx");
  is = waiting_in(SYS_pause);
  CHECK_EQ(arch::differing_registers(was, is), "orig_rax");
  // All of them where nothing is known of the call.
  is = waiting_in(SYS_pselect6);
  arch::Registers other = is;
  other.r9 = 1;
  CHECK_EQ(arch::differing_registers(is, other), "r9");
  // The same call, once interrupted before.
  CHECK_EQ(arch::differing_registers(waiting_in(SYS_nanosleep), waiting_in(SYS_restart_syscall)),
           "");
}

TEST(registers_differ_anywhere_in_a_thread_that_runs) {
  arch::Registers was = waiting_in(-1);
  arch::Registers is = was;
  CHECK_EQ(arch::differing_registers(was, is), "");
  is.rcx = 1;
  is.r8 = 1;
  CHECK_EQ(arch::differing_registers(was, is), "r8 rcx");
}

}  // namespace
}  // namespace sluice::test
