#include "restore/thread_restorer.h"

#include <pthread.h>

#include <cstring>

#include "check.h"
#include "child.h"
#include "rig.h"
#include "spinner.h"
#include "tools.h"

namespace sluice::test {
namespace {

// Freezes the process and gives its threads back what `work` makes of their state.
template <typename Work>
void restore_threads(pid_t pid, Work work) {
  Rig rig(pid);
  rig.task.run([&] {
    Freeze freeze(pid, rig.task.pid(), {far_off()});
    auto states = freeze.thread_states();
    work(&freeze, &states);
    ThreadRestorer restorer(rig.memory, states, &freeze);
    restorer.check();
    restorer.restore();
  });
}

void scramble(Freeze* freeze) {
  for (Tracee* tracee : freeze->tracees()) {
    arch::Registers registers{};
    CHECK(tracee->get_registers(&registers));
    registers.rbx ^= 1;
    registers.rip += 64;
    registers.rsp -= 4096;
    registers.eflags ^= 1;
    auto extended = tracee->extended_state();
    CHECK(extended.size() > 512);
    std::memset(extended.data() + 160, 0x5a, 256);  // XMM0 to XMM15
    CHECK(tracee->set_registers(registers) && tracee->set_extended_state(extended) &&
          tracee->set_signal_mask(~uint64_t{0}));
  }
}

}  // namespace

TEST(thread_restorer_names_a_few_of_many_other_threads) {
  std::vector<ThreadState> wanted(1000);
  for (size_t i = 0; i < wanted.size(); ++i) {
    wanted[i].tid = static_cast<pid_t>(i + 1);
  }
  try {
    require_same_threads(::getpid(), wanted, {1, 2, 3});
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.is("RESTORE_MISMATCH"));
    CHECK_EQ(
        error.detail(),
        "its threads are others: thread 4 is gone, thread 5 is gone, thread 6 is gone, thread 7 "
        "is gone, thread 8 is gone, thread 9 is gone, thread 10 is gone, thread 11 is gone and "
        "989 more");
  }
}

TEST(thread_restorer_restores_every_register) {
  for (const bool with_tiles : {false, true}) {
    if (with_tiles && !may_use_tiles()) {
      continue;
    }
    Spinner spinner(70, with_tiles);
    restore_threads(spinner.pid(), [](Freeze* freeze, auto*) { scramble(freeze); });
    spinner.check("a rollback");
  }
}

TEST(thread_restorer_restores_signal_masks) {
  Child child([] {});
  const uint64_t mask = 1ull << (SIGUSR1 - 1);
  restore_threads(child.pid(), [&](Freeze*, auto* states) { states->at(0).signal_mask = mask; });
  CHECK_EQ(status_line(child.pid(), "SigBlk"), "0000000000000200");
}

TEST(thread_restorer_refuses_what_the_kernel_has_otherwise) {
  Child child([] {});
  const auto refused = [&](void (*change)(ThreadState* state)) {
    CHECK_THROWS("RESTORE_MISMATCH", restore_threads(child.pid(), [&](Freeze*, auto* states) {
                   change(&states->at(0));
                 }));
  };
  refused([](ThreadState* state) { state->robust_list += 8; });
  refused([](ThreadState* state) { state->rseq = RseqArea{0x1000, 32, 0}; });
  refused([](ThreadState* state) { state->extended_registers.pop_back(); });
  refused([](ThreadState* state) { state->tid += 1; });
}

}  // namespace sluice::test
