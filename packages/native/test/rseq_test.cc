// A thread in a restartable sequence (rseq(2)) must not be made to work: the kernel would no longer
// see that the sequence was interrupted, and it would commit what it must not.
#include <sys/rseq.h>

#include <atomic>
#include <cstring>

#include "check.h"
#include "child.h"
#include "restore/thread_restorer.h"
#include "rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

// `word` is written from outside while the thread is stopped, so a sequence that finds another
// value at its end than at its start was interrupted and should not have come to its end.
struct Memory {
  std::atomic<uint64_t> word;
  std::atomic<uint64_t> stop;
  uint64_t sequences;
  uint64_t torn;
};

// Runs one sequence after the other. (rdi: rseq_cs of the thread, rsi: Memory)
extern "C" __attribute__((visibility("hidden"))) void sluice_test_sequences(uint64_t* rseq_cs,
                                                                            Memory* memory);
static_assert(offsetof(Memory, stop) == 8);
static_assert(offsetof(Memory, sequences) == 16);
static_assert(offsetof(Memory, torn) == 24);
static_assert(RSEQ_SIG == 0x53053053);
__asm__(R"(
        .section .data.rel.ro, "aw"
        .balign 32
.Lsequence:
        .long   0, 0
        .quad   .Lstart, .Lcommitted - .Lstart, .Labort
        .text
        .globl  sluice_test_sequences
        .hidden sluice_test_sequences
        .type   sluice_test_sequences, @function
sluice_test_sequences:
.Lagain:
        cmpq    $0, 8(%rsi)
        jne     .Lend
        leaq    .Lsequence(%rip), %rax
        movq    %rax, (%rdi)
.Lstart:
        movq    (%rsi), %rdx
        movl    $20000, %ecx
1:      decl    %ecx
        jnz     1b
        cmpq    (%rsi), %rdx
        jne     .Ltorn
        incq    16(%rsi)
.Lcommitted:
        jmp     .Lagain
.Ltorn:
        incq    24(%rsi)
        jmp     .Lagain
        .long   0x53053053
.Labort:
        jmp     .Lagain
.Lend:
        movq    $0, (%rdi)
        ret
        .size   sluice_test_sequences, . - sluice_test_sequences
)");

struct Sequences {
  Sequences()
      : child([] {},
              [this] {
                auto* area = reinterpret_cast<struct rseq*>(
                    static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
                sluice_test_sequences(reinterpret_cast<uint64_t*>(&area->rseq_cs), &*memory);
                return 0;
              }) {}

  void check_not_torn() {
    const uint64_t before = memory->sequences;
    wait_until("sequences come to their end", [&] { return memory->sequences > before + 100; });
    memory->stop = 1;
    CHECK_EQ(child.finish(), 0);
    CHECK_EQ(memory->torn, 0u);
  }

  Shared<Memory> memory;
  Child child;
};

void require_rseq() {
  if (__rseq_size == 0) {
    SKIP("libc has not registered rseq");
  }
}

}  // namespace

TEST(rseq_sequences_are_not_torn) {
  require_rseq();
  Sequences sequences;
  Shared<Memory>& memory = sequences.memory;
  const Child& child = sequences.child;
  Rig rig(child.pid());
  int between = 0;
  for (int i = 0; i < 100; ++i) {
    try {
      rig.in_thread(
          [&](RemoteThread& thread) {
            ++memory->word;
            CHECK_EQ(thread.call(make_call(SYS_getpid)), child.pid());
            return 0;
          },
          Clock::now() + std::chrono::milliseconds(2));
      ++between;
    } catch (const Error& error) {
      CHECK(error.is("INJECTION"));  // it was in a sequence at every look
    }
  }
  sequences.check_not_torn();
  CHECK(between < 100);
}

// Where a thread is taken back to is a place that it was interrupted at.
TEST(rseq_sequences_are_not_torn_by_rollbacks_into_them) {
  require_rseq();
  Sequences sequences;
  const pid_t pid = sequences.child.pid();
  Rig rig(pid);
  // From then on it uses no memory that is not brought back here.
  wait_until("it runs sequences", [&] { return sequences.memory->sequences > 0; });
  int inside = 0;
  for (int i = 0; i < 200; ++i) {
    rig.task.run([&] {
      std::vector<ThreadState> then;
      uint64_t descriptor = 0;
      const auto at_descriptor = [&] {
        return RemotePtr(then.at(0).rseq->address) + offsetof(struct rseq, rseq_cs);
      };
      {
        Freeze freeze(pid, rig.task.pid(), {far_off()});
        then = freeze.thread_states();
        CHECK(rig.memory.read(at_descriptor(), &descriptor, sizeof descriptor));
      }
      rseq_cs sequence{};
      if (rig.memory.read(RemotePtr(descriptor), &sequence, sizeof sequence) &&
          then.at(0).registers.rip - sequence.start_ip < sequence.post_commit_offset) {
        ++inside;
      }
      Freeze freeze(pid, rig.task.pid(), {far_off()});
      ThreadRestorer restorer(rig.memory, then, &freeze);
      restorer.check();
      ++sequences.memory->word;
      CHECK(TargetMemory::write(pid, at_descriptor(), &descriptor, sizeof descriptor));
      restorer.restore();
    });
  }
  CHECK(inside > 100);
  sequences.check_not_torn();
}

}  // namespace sluice::test
