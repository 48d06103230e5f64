#include "target/seccomp_filters.h"

#include <linux/bpf_common.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr uint32_t kAllowing[] = {SECCOMP_RET_ALLOW, SECCOMP_RET_LOG};
// Without a tracer that takes part, SECCOMP_RET_TRACE makes the call fail with ENOSYS.
constexpr uint32_t kHarmless[] = {SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, SECCOMP_RET_ERRNO,
                                  SECCOMP_RET_TRACE};

std::optional<uint32_t> word_at(const seccomp_data& call, uint32_t offset) {
  if (offset % sizeof(uint32_t) != 0 || offset > sizeof call - sizeof(uint32_t)) {
    return std::nullopt;
  }
  uint32_t word = 0;
  std::memcpy(&word, reinterpret_cast<const char*>(&call) + offset, sizeof word);
  return word;
}

std::optional<uint32_t> reckon(uint16_t operation, uint32_t a, uint32_t b) {
  switch (operation) {
    case BPF_ADD:
      return a + b;
    case BPF_SUB:
      return a - b;
    case BPF_MUL:
      return a * b;
    case BPF_DIV:
      // By zero: the kernel ends the filter with 0, SECCOMP_RET_KILL_THREAD.
      return b == 0 ? std::nullopt : std::optional(a / b);
    case BPF_AND:
      return a & b;
    case BPF_OR:
      return a | b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return a << (b & 31);
    case BPF_RSH:
      return a >> (b & 31);
    case BPF_NEG:
      return -a;
    default:
      return std::nullopt;
  }
}

std::optional<bool> compare(uint16_t operation, uint32_t a, uint32_t b) {
  switch (operation) {
    case BPF_JEQ:
      return a == b;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    case BPF_JSET:
      return (a & b) != 0;
    default:
      return std::nullopt;
  }
}

// The classic BPF machine, as far as seccomp(2) lets programs use it.
class Machine {
 public:
  explicit Machine(const seccomp_data& call) : call_(call) {}

  // What the program returns, once it has ended.
  uint32_t result() const { return result_; }

  // False: this instruction ends the program. Else sets how many to pass over.
  bool step(const sock_filter& code, size_t* skip) {
    const uint32_t operand = BPF_SRC(code.code) == BPF_X ? x_ : code.k;
    *skip = 0;
    switch (BPF_CLASS(code.code)) {
      case BPF_RET:
        result_ = BPF_RVAL(code.code) == BPF_A ? a_ : code.k;
        return false;
      case BPF_LD:
        return load(code, &a_);
      case BPF_LDX:
        return load(code, &x_);
      case BPF_ST:
        return store(code.k, a_);
      case BPF_STX:
        return store(code.k, x_);
      case BPF_ALU:
        return set(reckon(BPF_OP(code.code), a_, operand), &a_);
      case BPF_MISC:
        return move(BPF_MISCOP(code.code));
      default:  // BPF_JMP
        return jump(code, operand, skip);
    }
  }

 private:
  // Nothing to be set: the kernel would have refused the program, or ends it there.
  static bool set(std::optional<uint32_t> value, uint32_t* to) {
    *to = value.value_or(0);
    return value.has_value();
  }

  bool load(const sock_filter& code, uint32_t* to) {
    switch (BPF_MODE(code.code)) {
      case BPF_IMM:
        return set(code.k, to);
      case BPF_ABS:
        return set(word_at(call_, code.k), to);
      case BPF_LEN:
        return set(sizeof call_, to);
      case BPF_MEM:
        return code.k < memory_.size() && set(memory_[code.k], to);
      default:
        return false;
    }
  }

  bool store(uint32_t at, uint32_t value) {
    if (at >= memory_.size()) {
      return false;
    }
    memory_[at] = value;
    return true;
  }

  bool move(uint16_t operation) {
    if (operation == BPF_TAX) {
      x_ = a_;
    } else {
      a_ = x_;
    }
    return operation == BPF_TAX || operation == BPF_TXA;
  }

  bool jump(const sock_filter& code, uint32_t operand, size_t* skip) const {
    if (BPF_OP(code.code) == BPF_JA) {
      *skip = code.k;
      return true;
    }
    const auto jumps = compare(BPF_OP(code.code), a_, operand);
    *skip = jumps.value_or(false) ? code.jt : code.jf;
    return jumps.has_value();
  }

  const seccomp_data& call_;
  uint32_t result_ = SECCOMP_RET_KILL_PROCESS;
  uint32_t a_ = 0;
  uint32_t x_ = 0;
  std::array<uint32_t, BPF_MEMWORDS> memory_{};
};

// By the number that it has since it was installed; 0 is the newest. Empty: there are no more.
std::vector<sock_filter> get_filter(pid_t tid, long index) {
  const long length = sys::call(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, tid, index, nullptr);
  if (length == -ENOENT) {
    return {};
  }
  std::vector<sock_filter> program(static_cast<size_t>(std::max(length, 0L)));
  const long got =
      length <= 0 ? length
                  : sys::call(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, tid, index, program.data());
  if (got != length || got <= 0) {
    throw Error("INJECTION", tid, "ptrace", static_cast<int>(-std::min(got, 0L)),
                "it has a seccomp filter that the kernel does not show");
  }
  return program;
}

}  // namespace

uint32_t run_seccomp_filter(std::span<const sock_filter> program, const seccomp_data& call) {
  Machine machine(call);
  for (size_t at = 0; at < program.size();) {
    size_t skip = 0;
    if (!machine.step(program[at], &skip)) {
      return machine.result();
    }
    at += 1 + skip;
  }
  return SECCOMP_RET_KILL_PROCESS;
}

SeccompFilters::SeccompFilters(Tracee* tracee, int mode) : strict_(mode == SECCOMP_MODE_STRICT) {
  for (long index = 0; mode == SECCOMP_MODE_FILTER; ++index) {
    auto program = get_filter(tracee->tid(), index);
    if (program.empty()) {
      break;
    }
    programs_.push_back(std::move(program));
  }
}

bool SeccompFilters::each_says(const seccomp_data& call, std::span<const uint32_t> actions) const {
  if (strict_) {
    return call.nr == SYS_read || call.nr == SYS_write || call.nr == SYS_exit ||
           call.nr == SYS_rt_sigreturn;
  }
  return std::all_of(programs_.begin(), programs_.end(), [&](const auto& program) {
    const uint32_t action = run_seccomp_filter(program, call) & SECCOMP_RET_ACTION_FULL;
    return std::find(actions.begin(), actions.end(), action) != actions.end();
  });
}

bool SeccompFilters::allows(const seccomp_data& call) const { return each_says(call, kAllowing); }

bool SeccompFilters::harmless(const seccomp_data& call) const { return each_says(call, kHarmless); }

}  // namespace sluice
