// All that is bound to one architecture: registers, how a system call is made from outside, the
// code that a target must contain for it, and the frame that lets a thread find its own way back.
// arch_x86_64.cc implements it; another architecture adds a file of its own.
#pragma once

#include <linux/seccomp.h>
#include <sys/user.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/remote_ptr.h"

namespace sluice::arch {

using Registers = user_regs_struct;

// A system call without libc: errno lives in thread-local storage, which the caller may not own.
long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                 long f = 0);

// For a signal handler, of its third argument: if the interrupted code is about to make this system
// call, perhaps for another time, the call is not made and fails with `err`.
void refuse_call_being_made(void* context, long number, long first_argument, int err);

// Instructions that every injection needs, found in executable memory of the target.
struct Gadgets {
  RemotePtr syscall_return;  // makes a system call, then returns to the address on the stack
  RemotePtr sigreturn;       // makes rt_sigreturn
  bool complete() const { return syscall_return && sigreturn; }
};

// Fills what is still missing in `gadgets` from the bytes of executable memory at `base`.
void search_gadgets(std::span<const uint8_t> code, RemotePtr base, Gadgets* gadgets);
// The bytes that must still stand at both places when they are about to be used.
inline constexpr size_t kSyscallReturnBytes = 3;
bool is_syscall_return(std::span<const uint8_t> code);
bool is_sigreturn(std::span<const uint8_t> code);
inline constexpr size_t kSigreturnBytes = 9;

struct Call {
  long number = 0;
  uint64_t args[6] = {};
};
// At most six arguments.
inline Call make_call(long number, std::initializer_list<uint64_t> args = {}) {
  Call call;
  call.number = number;
  std::copy(args.begin(), args.end(), call.args);
  return call;
}
// Registers that make `call` at the gadget; returning from it pops the address at `stack`.
Registers registers_for_call(const Registers& base, const Gadgets& gadgets, const Call& call,
                             RemotePtr stack);
// The same for a thread that a tracer holds at the entry of some system call: it makes this one.
Registers registers_at_entry(const Registers& base, const Gadgets& gadgets, const Call& call,
                             RemotePtr stack);
// Registers that go back with the return frame at `frame`.
Registers registers_for_return(const Registers& base, const Gadgets& gadgets, RemotePtr frame);
// A system call as a seccomp filter sees it (seccomp(2)): `call` made at the gadget, or the
// rt_sigreturn that goes back with a return frame.
seccomp_data seen_by_filters(const Registers& base, const Gadgets& gadgets, const Call& call);
seccomp_data return_seen_by_filters(const Registers& base, const Gadgets& gadgets);
int64_t call_result(const Registers& registers);
RemotePtr stack_pointer(const Registers& registers);
RemotePtr instruction_pointer(const Registers& registers);
RemotePtr thread_pointer(const Registers& registers);

// Bytes below the stack pointer that belong to the running function (the red zone of the ABI).
inline constexpr uint64_t kRedZoneBytes = 128;
// Where a frame may start.
inline constexpr uint64_t kFrameAlignment = 64;

// Where an extended state (NT_X86_XSTATE) has the registers of one feature of the processor.
struct ExtendedFeature {
  uint32_t number = 0;
  uint32_t bytes = 0;
  uint32_t offset = 0;
};
// Of all that the kernel saves for programs, ascending by number. It does not depend on the
// process, and those of the legacy area, which are always at the same place, are not among them.
std::vector<ExtendedFeature> extended_layout();

// Cuts an extended state that ptrace gave (NT_X86_XSTATE) down to the registers that are in use. It
// has room for all that the processor has, but with more in a frame than the thread may use (tile
// registers need a permission) rt_sigreturn would restore the oldest part only, and lose the rest.
void keep_restorable(std::vector<uint8_t>* xstate);

// A signal frame with which rt_sigreturn puts back `registers`, the extended state `xstate` (as
// keep_restorable leaves it; empty: the initial state) and the signal mask. To be written at `at`
// (aligned to kFrameAlignment); its first word is the address of the sigreturn gadget, so that
// returning to `at` runs it. An interrupted system call in `registers` is made again.
std::vector<uint8_t> return_frame(RemotePtr at, const Registers& registers,
                                  std::span<const uint8_t> xstate, uint64_t signal_mask,
                                  const Gadgets& gadgets);
size_t return_frame_bytes(size_t xstate_bytes);

// Registers of a task whose only act is exit_group with this status.
inline constexpr int kHelperExitCode = 0x51;
Registers registers_for_exit(const Registers& base, const Gadgets& gadgets, RemotePtr stack);

// Some system calls return EINTR when a stop interrupts them, though no signal handler ran
// (signal(7), "Interruption of system calls and library functions by stop signals"). Where
// `registers` show that, makes the kernel restart the call unless a handler runs. True if changed.
bool restart_if_merely_stopped(Registers* registers);

// Bytes of code that end where a thread that makes a system call goes on.
inline constexpr size_t kCallBytes = 7;
// How the kernel goes on with some calls that it interrupted (a sleep, a wait with a timeout) is
// noted in the thread and cannot be brought back. So where `registers` say that it is to go on with
// such a call, and the thread has not stood in that call since, by its registers `now`, the call is
// made again from its arguments, and its timeout starts anew. `code` are the kCallBytes before the
// place, or none: the arguments alone do not tell which call it was, if it was interrupted twice.
// If that cannot be found out, the call fails with EINTR.
void restart_without_block(Registers* registers, const Registers& now,
                           std::span<const uint8_t> code);

// Whether the extended state `wanted` (NT_X86_XSTATE) can be given to a thread that has `now`: it
// is of such a processor.
bool fits_extended_state(std::span<const uint8_t> wanted, std::span<const uint8_t> now);

// ELF class, instruction set: whether Sluice can work on code like this.
bool is_native_executable(std::span<const uint8_t> elf_header);

}  // namespace sluice::arch
