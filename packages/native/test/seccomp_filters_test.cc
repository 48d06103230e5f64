// What a filter says of a call, reckoned here and asked of the kernel.
#include "target/seccomp_filters.h"

#include <linux/audit.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "child.h"
#include "rig.h"
#include "seccomp_filter.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr int kPrograms = 300;
constexpr int kCalls = 24;
constexpr uint32_t kMostErrno = 4095;

sock_filter statement(int code, uint32_t k) { return {static_cast<uint16_t>(code), 0, 0, k}; }

sock_filter random_load(Random& random) {
  // Number, architecture and arguments; where the call comes from is not known here.
  constexpr uint32_t kOffsets[] = {0, 4, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
  switch (below(random, 6)) {
    case 0:
      return statement(BPF_LD | BPF_W | BPF_LEN, 0);
    case 1:
      return statement(BPF_LD | BPF_IMM, static_cast<uint32_t>(random()));
    case 2:
      return statement(BPF_LDX | BPF_IMM, static_cast<uint32_t>(below(random, 40)));
    case 3:
      return statement((below(random, 2) != 0 ? BPF_LD : BPF_LDX) | BPF_MEM,
                       static_cast<uint32_t>(below(random, 2)));
    default:
      return statement(BPF_LD | BPF_W | BPF_ABS, kOffsets[below(random, std::size(kOffsets))]);
  }
}

sock_filter random_arithmetic(Random& random) {
  constexpr int kOperations[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_AND, BPF_OR,
                                 BPF_XOR, BPF_LSH, BPF_RSH, BPF_DIV, BPF_NEG};
  const int operation = kOperations[below(random, std::size(kOperations))];
  const bool shift = operation == BPF_LSH || operation == BPF_RSH;
  if (operation == BPF_NEG) {
    return statement(BPF_ALU | BPF_NEG, 0);
  }
  if (operation != BPF_DIV && below(random, 2) != 0) {
    return statement(BPF_ALU | operation | BPF_X, 0);
  }
  const auto k = static_cast<uint32_t>(below(random, shift ? 32 : 1000));
  return statement(BPF_ALU | operation | BPF_K, operation == BPF_DIV ? k + 1 : k);
}

sock_filter random_jump(Random& random, size_t left) {
  constexpr int kTests[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
  const auto most = std::min<size_t>(left, 4);
  const auto target = [&] { return static_cast<uint8_t>(below(random, most)); };
  const int source = below(random, 2) != 0 ? BPF_X : BPF_K;
  return {static_cast<uint16_t>(BPF_JMP | kTests[below(random, std::size(kTests))] | source),
          target(), target(), static_cast<uint32_t>(below(random, 4))};
}

// Of getppid only, it makes some error of what it has reckoned.
std::vector<sock_filter> random_program(Random& random) {
  std::vector<sock_filter> program = {
      statement(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
      statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      statement(BPF_ST, 0),
      statement(BPF_STX, 1),
  };
  const size_t body = 5 + below(random, 40);
  for (size_t i = 0; i < body; ++i) {
    switch (below(random, 6)) {
      case 0:
        program.push_back(random_jump(random, body - i));
        break;
      case 1:
        program.push_back(statement(BPF_MISC | (below(random, 2) != 0 ? BPF_TAX : BPF_TXA), 0));
        break;
      case 2:
        program.push_back(statement(below(random, 2) != 0 ? BPF_ST : BPF_STX,
                                    static_cast<uint32_t>(below(random, 2))));
        break;
      case 3:
        program.push_back(random_load(random));
        break;
      default:
        program.push_back(random_arithmetic(random));
        break;
    }
  }
  program.push_back(statement(BPF_ALU | BPF_AND | BPF_K, kMostErrno));
  program.push_back(statement(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO));
  program.push_back(statement(BPF_RET | BPF_A, 0));
  return program;
}

using Arguments = std::array<uint64_t, 6>;

// By the kernel, in this process: the errors that the calls fail with, 0 for none.
void ask_kernel(std::vector<sock_filter> program, const std::vector<Arguments>& calls,
                int32_t* errors) {
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  CHECK_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
  for (size_t i = 0; i < calls.size(); ++i) {
    const auto& a = calls[i];
    errno = 0;
    ::syscall(SYS_getppid, a[0], a[1], a[2], a[3], a[4], a[5]);
    errors[i] = errno;
  }
}

seccomp_data data_of(const Arguments& arguments) {
  seccomp_data data{};
  data.nr = SYS_getppid;
  data.arch = AUDIT_ARCH_X86_64;
  std::copy(arguments.begin(), arguments.end(), data.args);
  return data;
}

}  // namespace

TEST(seccomp_filters_are_reckoned_as_the_kernel_does) {
  Random random(7);
  int different_answers = 0;
  for (int i = 0; i < kPrograms; ++i) {
    const auto program = random_program(random);
    std::vector<Arguments> calls(kCalls);
    for (Arguments& arguments : calls) {
      for (uint64_t& argument : arguments) {
        argument = below(random, 2) != 0 ? below(random, 4) : random();
      }
    }
    Shared<std::array<int32_t, kCalls>> errors;
    Child child([] {},
                [&] {
                  ask_kernel(program, calls, errors->data());
                  return 0;
                });
    CHECK_EQ(child.finish(), 0);
    for (size_t call = 0; call < calls.size(); ++call) {
      const uint32_t said = run_seccomp_filter(program, data_of(calls[call]));
      CHECK_EQ(said & SECCOMP_RET_ACTION_FULL, uint32_t{SECCOMP_RET_ERRNO});
      CHECK_EQ(static_cast<int32_t>(said & SECCOMP_RET_DATA), (*errors)[call]);
      different_answers += (*errors)[call] != (*errors)[0] ? 1 : 0;
    }
  }
  CHECK(different_answers > kPrograms);
}

TEST(seccomp_filters_that_are_none_forbid) {
  const seccomp_data call = data_of({});
  CHECK_EQ(run_seccomp_filter({}, call), uint32_t{SECCOMP_RET_KILL_PROCESS});
  for (const sock_filter& wrong :
       {statement(BPF_LD | BPF_W | BPF_ABS, 64), statement(BPF_LD | BPF_W | BPF_ABS, 61),
        statement(BPF_LD | BPF_W | BPF_ABS, ~0u), statement(BPF_LD | BPF_MEM, 16),
        statement(BPF_ST, 16), statement(BPF_ALU | BPF_DIV | BPF_X, 0), statement(BPF_JMP, ~0u),
        statement(BPF_JMP | BPF_JA, ~0u), statement(0xffff, 0)}) {
    const sock_filter program[] = {wrong, statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const uint32_t said = run_seccomp_filter(program, call);
    CHECK_EQ(said, uint32_t{SECCOMP_RET_KILL_PROCESS});
  }
}

// All filters of a thread count, and the strict mode.
TEST(seccomp_filters_of_a_thread) {
  const auto verdicts = [](pid_t pid, int mode) {
    Rig rig(pid);
    std::string text;
    rig.task.run([&] {
      Tracee tracee(pid);
      CHECK(tracee.seize(0) && tracee.interrupt());
      CHECK(tracee.wait(far_off()) == Stop::kEvent);
      const SeccompFilters filters(&tracee, mode);
      for (const long number : {SYS_read, SYS_mmap, SYS_clone, SYS_wait4}) {
        seccomp_data call = data_of({});
        call.nr = static_cast<int>(number);
        text += filters.allows(call) ? "a" : filters.harmless(call) ? "h" : "-";
      }
      tracee.detach();
    });
    return text;
  };
  const Child free([] {});
  CHECK_EQ(verdicts(free.pid(), SECCOMP_MODE_DISABLED), "aaaa");
  const Child filtered([] {
    answer({SYS_mmap}, SECCOMP_RET_ERRNO | ENOMEM);
    answer({SYS_clone}, SECCOMP_RET_TRAP);
  });
  CHECK_EQ(verdicts(filtered.pid(), SECCOMP_MODE_FILTER), "ah-a");
  const Child strict([] {});
  CHECK_EQ(verdicts(strict.pid(), SECCOMP_MODE_STRICT), "a---");
}

}  // namespace sluice::test
