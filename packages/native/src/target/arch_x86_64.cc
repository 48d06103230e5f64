#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <cpuid.h>
#include <elf.h>
#include <linux/audit.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "target/arch.h"

#ifndef __x86_64__
#error "this file is for x86-64"
#endif

namespace sluice::arch {
namespace {

// Kernel-internal results of interrupted system calls, seen only by tracers
// (include/linux/errno.h of the kernel).
constexpr int64_t kRestartSys = 512;
constexpr int64_t kRestartNoIntr = 513;
constexpr int64_t kRestartNoHand = 514;
constexpr int64_t kRestartBlock = 516;

constexpr uint64_t kSyscallInstructionBytes = 2;
constexpr uint16_t kUserCodeSegment = 0x33;
constexpr uint16_t kUserStackSegment = 0x2b;
constexpr uint64_t kInitialFlags = 0x202;  // interrupts on, and the bit that is always set

// The kernel's frame (arch/x86/include/asm/sigframe.h, uapi/asm/ucontext.h, uapi/asm/sigcontext.h),
// spelled out because libc's headers hide parts of it.
struct SigContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2;
  uint64_t fpstate;
  uint64_t reserved[8];
};
struct RtSigFrame {
  uint64_t return_address;
  uint64_t uc_flags;
  uint64_t uc_link;
  uint64_t stack_pointer;
  int32_t stack_flags;
  int32_t stack_padding;
  uint64_t stack_size;
  SigContext context;
  uint64_t signal_mask;
  uint8_t siginfo[128];
};
static_assert(sizeof(SigContext) == 256);
static_assert(offsetof(RtSigFrame, context) == 48);
static_assert(offsetof(RtSigFrame, signal_mask) == 304);

constexpr uint64_t kUcFpXstate = 1;
constexpr uint64_t kUcSigcontextSs = 2;
constexpr uint64_t kUcStrictRestoreSs = 4;

// What the kernel wants to find in the unused bytes of the legacy area, and after the state
// (struct _fpx_sw_bytes); without it only the legacy part would be restored.
struct FpSoftwareBytes {
  uint32_t magic1;
  uint32_t extended_size;
  uint64_t features;
  uint32_t xstate_size;
  uint32_t padding[7];
};
static_assert(sizeof(FpSoftwareBytes) == 48);
constexpr size_t kFpSoftwareOffset = 464;
constexpr size_t kXstateHeaderOffset = 512;
constexpr size_t kXstateHeaderBytes = 64;
constexpr uint64_t kLegacyFeatures = 3;  // x87 and SSE
constexpr unsigned kFirstExtendedFeature = 2;
constexpr unsigned kExtendedFeaturesEnd = 63;  // the last bit stands for another format
constexpr unsigned kXstateLeaf = 0xd;  // of CPUID, which tells where each feature's registers are
constexpr uint32_t kFpMagic1 = 0x46505853;
constexpr uint32_t kFpMagic2 = 0x46505845;

constexpr uint8_t kSyscallReturn[] = {0x0f, 0x05, 0xc3};
constexpr uint8_t kSigreturnLong[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};
constexpr uint8_t kSigreturnShort[] = {0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};
static_assert(sizeof(kSyscallReturn) == kSyscallReturnBytes);
static_assert(sizeof(kSigreturnLong) == kSigreturnBytes);

size_t align_frame(size_t bytes) {
  return (bytes + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}

template <size_t N>
bool starts_with(std::span<const uint8_t> code, const uint8_t (&pattern)[N]) {
  return code.size() >= N && std::memcmp(code.data(), pattern, N) == 0;
}

template <size_t N>
std::optional<size_t> find(std::span<const uint8_t> code, const uint8_t (&pattern)[N]) {
  if (code.empty()) {
    return std::nullopt;
  }
  const void* hit = memmem(code.data(), code.size(), pattern, N);
  if (hit == nullptr) {
    return std::nullopt;
  }
  return static_cast<size_t>(static_cast<const uint8_t*>(hit) - code.data());
}

ExtendedFeature extended_feature(unsigned number) {
  ExtendedFeature feature{number, 0, 0};
  unsigned ecx = 0;
  unsigned edx = 0;
  __cpuid_count(kXstateLeaf, number, feature.bytes, feature.offset, ecx, edx);
  return feature;
}

// XCR0: what the kernel has switched on for programs, and lists as such in cores; 0 without XSAVE.
uint64_t features_for_programs() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) {
    return 0;
  }
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

bool in_syscall(const Registers& registers) {
  return static_cast<int64_t>(registers.orig_rax) >= 0;
}

}  // namespace

long raw_syscall(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

void refuse_call_being_made(void* context, long number, long first_argument, int err) {
  constexpr uint8_t kSyscall[] = {0x0f, 0x05};
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  if (std::memcmp(reinterpret_cast<const void*>(registers[REG_RIP]), kSyscall, sizeof kSyscall) ==
          0 &&
      registers[REG_RAX] == number && registers[REG_RDI] == first_argument) {
    registers[REG_RIP] += sizeof kSyscall;
    registers[REG_RAX] = -err;
  }
}

void search_gadgets(std::span<const uint8_t> code, RemotePtr base, Gadgets* gadgets) {
  if (!gadgets->syscall_return) {
    if (const auto at = find(code, kSyscallReturn)) {
      gadgets->syscall_return = base + *at;
    }
  }
  if (!gadgets->sigreturn) {
    if (const auto at = find(code, kSigreturnLong)) {
      gadgets->sigreturn = base + *at;
    } else if (const auto short_at = find(code, kSigreturnShort)) {
      gadgets->sigreturn = base + *short_at;
    }
  }
}

bool is_syscall_return(std::span<const uint8_t> code) { return starts_with(code, kSyscallReturn); }

bool is_sigreturn(std::span<const uint8_t> code) {
  return starts_with(code, kSigreturnLong) || starts_with(code, kSigreturnShort);
}

Registers registers_for_call(const Registers& base, const Gadgets& gadgets, const Call& call,
                             RemotePtr stack) {
  Registers registers = base;
  registers.rip = gadgets.syscall_return.value();
  registers.rsp = stack.value();
  registers.rax = static_cast<uint64_t>(call.number);
  // Not in a system call: the kernel must not restart the interrupted one with these registers.
  registers.orig_rax = ~uint64_t{0};
  registers.rdi = call.args[0];
  registers.rsi = call.args[1];
  registers.rdx = call.args[2];
  registers.r10 = call.args[3];
  registers.r8 = call.args[4];
  registers.r9 = call.args[5];
  return registers;
}

Registers registers_at_entry(const Registers& base, const Gadgets& gadgets, const Call& call,
                             RemotePtr stack) {
  Registers registers = registers_for_call(base, gadgets, call, stack);
  registers.rip += kSyscallInstructionBytes;
  registers.orig_rax = static_cast<uint64_t>(call.number);
  registers.rax = static_cast<uint64_t>(-ENOSYS);  // stays if there is no such call
  return registers;
}

Registers registers_for_return(const Registers& base, const Gadgets& gadgets, RemotePtr frame) {
  Registers registers = base;
  registers.rip = gadgets.sigreturn.value();
  // As if its first word, the address of the gadget, had just been popped.
  registers.rsp = frame.value() + sizeof(uint64_t);
  registers.orig_rax = ~uint64_t{0};
  return registers;
}

seccomp_data seen_by_filters(const Registers& base, const Gadgets& gadgets, const Call& call) {
  seccomp_data data{};
  data.nr = static_cast<int>(call.number);
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = registers_at_entry(base, gadgets, call, RemotePtr()).rip;
  std::copy(std::begin(call.args), std::end(call.args), data.args);
  return data;
}

seccomp_data return_seen_by_filters(const Registers& base, const Gadgets& gadgets) {
  const Call call =
      make_call(SYS_rt_sigreturn, {base.rdi, base.rsi, base.rdx, base.r10, base.r8, base.r9});
  seccomp_data data = seen_by_filters(base, gadgets, call);
  data.instruction_pointer = gadgets.sigreturn.value() + kSigreturnBytes;
  return data;
}

int64_t call_result(const Registers& registers) { return static_cast<int64_t>(registers.rax); }
RemotePtr stack_pointer(const Registers& registers) { return RemotePtr(registers.rsp); }
RemotePtr instruction_pointer(const Registers& registers) { return RemotePtr(registers.rip); }
RemotePtr thread_pointer(const Registers& registers) { return RemotePtr(registers.fs_base); }

std::vector<ExtendedFeature> extended_layout() {
  std::vector<ExtendedFeature> layout;
  const uint64_t features = features_for_programs();
  for (unsigned number = kFirstExtendedFeature; number < kExtendedFeaturesEnd; ++number) {
    if ((features >> number & 1) != 0) {
      layout.push_back(extended_feature(number));
    }
  }
  return layout;
}

void keep_restorable(std::vector<uint8_t>* xstate) {
  if (xstate->size() < kXstateHeaderOffset + kXstateHeaderBytes) {
    return;
  }
  uint64_t offered = 0;
  uint64_t in_use = 0;
  std::memcpy(&offered, xstate->data() + kFpSoftwareOffset, sizeof offered);
  std::memcpy(&in_use, xstate->data() + kXstateHeaderOffset, sizeof in_use);
  const uint64_t features = offered & (in_use | kLegacyFeatures);
  size_t bytes = kXstateHeaderOffset + kXstateHeaderBytes;
  for (unsigned number = kFirstExtendedFeature; number < kExtendedFeaturesEnd; ++number) {
    if ((features >> number & 1) != 0) {
      const ExtendedFeature feature = extended_feature(number);
      bytes = std::max(bytes, size_t{feature.offset} + feature.bytes);
    }
  }
  std::memcpy(xstate->data() + kFpSoftwareOffset, &features, sizeof features);
  xstate->resize(std::min(bytes, xstate->size()));
}

size_t return_frame_bytes(size_t xstate_bytes) {
  const size_t frame = align_frame(sizeof(RtSigFrame));
  return xstate_bytes == 0 ? frame : frame + align_frame(xstate_bytes + sizeof(kFpMagic2));
}

std::vector<uint8_t> return_frame(RemotePtr at, const Registers& registers,
                                  std::span<const uint8_t> xstate, uint64_t signal_mask,
                                  const Gadgets& gadgets) {
  std::vector<uint8_t> bytes(return_frame_bytes(xstate.size()));
  RtSigFrame frame{};
  frame.return_address = gadgets.sigreturn.value();
  frame.uc_flags = kUcSigcontextSs | kUcStrictRestoreSs;
  // sigreturn also sets the alternative signal stack, which cannot be read from outside. Flags
  // that mean nothing make the kernel leave it as it is (restore_altstack ignores EINVAL).
  frame.stack_flags = 0x7fff;
  frame.signal_mask = signal_mask;

  SigContext& context = frame.context;
  context.r8 = registers.r8;
  context.r9 = registers.r9;
  context.r10 = registers.r10;
  context.r11 = registers.r11;
  context.r12 = registers.r12;
  context.r13 = registers.r13;
  context.r14 = registers.r14;
  context.r15 = registers.r15;
  context.di = registers.rdi;
  context.si = registers.rsi;
  context.bp = registers.rbp;
  context.bx = registers.rbx;
  context.dx = registers.rdx;
  context.ax = registers.rax;
  context.cx = registers.rcx;
  context.sp = registers.rsp;
  context.ip = registers.rip;
  context.flags = registers.eflags;
  context.cs = static_cast<uint16_t>(registers.cs);
  context.gs = static_cast<uint16_t>(registers.gs);
  context.fs = static_cast<uint16_t>(registers.fs);
  context.ss = static_cast<uint16_t>(registers.ss);

  // sigreturn forgets that a system call was interrupted, so make it again from its arguments. One
  // with a relative timeout then waits that long anew; there is no better way without a tracer.
  const int64_t result = static_cast<int64_t>(registers.rax);
  if (in_syscall(registers) && (result == -kRestartSys || result == -kRestartNoIntr ||
                                result == -kRestartNoHand || result == -kRestartBlock)) {
    context.ax = registers.orig_rax;
    context.ip = registers.rip - kSyscallInstructionBytes;
  }

  if (xstate.size() > kXstateHeaderOffset) {
    const size_t state_at = align_frame(sizeof(RtSigFrame));
    frame.uc_flags |= kUcFpXstate;
    context.fpstate = at.value() + state_at;
    std::memcpy(bytes.data() + state_at, xstate.data(), xstate.size());
    FpSoftwareBytes software{};
    software.magic1 = kFpMagic1;
    software.extended_size = static_cast<uint32_t>(xstate.size() + sizeof(kFpMagic2));
    // PTRACE_GETREGSET and keep_restorable put the mask of features that the state holds here.
    std::memcpy(&software.features, xstate.data() + kFpSoftwareOffset, sizeof software.features);
    software.xstate_size = static_cast<uint32_t>(xstate.size());
    std::memcpy(bytes.data() + state_at + kFpSoftwareOffset, &software, sizeof software);
    std::memcpy(bytes.data() + state_at + xstate.size(), &kFpMagic2, sizeof kFpMagic2);
  }
  std::memcpy(bytes.data(), &frame, sizeof frame);
  return bytes;
}

Registers registers_for_exit(const Registers& base, const Gadgets& gadgets, RemotePtr stack) {
  Call call;
  call.number = SYS_exit_group;
  call.args[0] = kHelperExitCode;
  Registers registers = registers_for_call(base, gadgets, call, stack);
  registers.eflags = kInitialFlags;
  registers.cs = kUserCodeSegment;
  registers.ss = kUserStackSegment;
  return registers;
}

bool restart_if_merely_stopped(Registers* registers) {
  if (!in_syscall(*registers) || static_cast<int64_t>(registers->rax) != -EINTR) {
    return false;
  }
  switch (registers->orig_rax) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_rt_sigtimedwait:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
    case SYS_io_uring_enter:
    // Sockets with SO_RCVTIMEO or SO_SNDTIMEO.
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg:
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
      registers->rax = static_cast<uint64_t>(-kRestartNoHand);
      return true;
    default:
      return false;
  }
}

namespace {

// Of a call that is made under the name of restart_syscall(2): the number that the code loads right
// before it makes the call, if it is one of those that the kernel goes on with in that way.
std::optional<uint64_t> number_before(std::span<const uint8_t> code) {
  constexpr uint8_t kLoadNumber = 0xb8;  // mov $number, %eax
  constexpr uint8_t kSyscall[] = {0x0f, 0x05};
  uint32_t number = 0;
  static_assert(kCallBytes == 1 + sizeof number + sizeof kSyscall);
  if (code.size() != kCallBytes || code[0] != kLoadNumber ||
      std::memcmp(code.data() + 1 + sizeof number, kSyscall, sizeof kSyscall) != 0) {
    return std::nullopt;
  }
  std::memcpy(&number, code.data() + 1, sizeof number);
  switch (number) {
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_poll:
    case SYS_futex:
      return number;
    default:
      return std::nullopt;
  }
}

bool stands_in_same_call(const Registers& a, const Registers& b) {
  const bool same_number = a.orig_rax == b.orig_rax || a.orig_rax == SYS_restart_syscall ||
                           b.orig_rax == SYS_restart_syscall;
  return in_syscall(a) && in_syscall(b) && a.rax == b.rax && same_number && a.rip == b.rip &&
         a.rsp == b.rsp && a.rdi == b.rdi && a.rsi == b.rsi && a.rdx == b.rdx && a.r10 == b.r10 &&
         a.r8 == b.r8 && a.r9 == b.r9;
}

}  // namespace

void restart_without_block(Registers* registers, const Registers& now,
                           std::span<const uint8_t> code) {
  if (!in_syscall(*registers) || static_cast<int64_t>(registers->rax) != -kRestartBlock) {
    return;
  }
  if (stands_in_same_call(*registers, now)) {
    registers->orig_rax = now.orig_rax;
    return;
  }
  if (registers->orig_rax == SYS_restart_syscall) {
    const auto number = number_before(code);
    if (!number) {
      registers->rax = static_cast<uint64_t>(-EINTR);
      return;
    }
    registers->orig_rax = *number;
  }
  registers->rax = static_cast<uint64_t>(-kRestartNoHand);
}

bool fits_extended_state(std::span<const uint8_t> wanted, std::span<const uint8_t> now) {
  if (wanted.size() != now.size()) {
    return false;
  }
  if (now.size() < kXstateHeaderOffset + kXstateHeaderBytes) {
    return true;
  }
  uint64_t offered = 0;
  uint64_t in_use = 0;
  std::memcpy(&offered, now.data() + kFpSoftwareOffset, sizeof offered);
  std::memcpy(&in_use, wanted.data() + kXstateHeaderOffset, sizeof in_use);
  return (in_use & ~offered) == 0;
}

bool is_native_executable(std::span<const uint8_t> elf_header) {
  if (elf_header.size() < sizeof(Elf64_Ehdr) ||
      std::memcmp(elf_header.data(), ELFMAG, SELFMAG) != 0) {
    return false;
  }
  Elf64_Ehdr header;
  std::memcpy(&header, elf_header.data(), sizeof header);
  return header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64;
}

}  // namespace sluice::arch
