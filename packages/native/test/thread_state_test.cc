// What is captured of threads is what they have, as they tell it themselves.
#include "target/thread_state.h"

#include <sys/rseq.h>
#include <sys/syscall.h>

#include <cstring>

#include "child.h"
#include "rig.h"
#include "session_rig.h"
#include "spinner.h"
#include "target/freeze.h"
#include "target/helper_state_remote.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr int kThreads = 3;

struct Said {
  pid_t tid;
  uint64_t robust_list;
  uint64_t rseq;
};

std::vector<ThreadState> frozen_states(pid_t pid) {
  TracerTask task;
  return task.run([&] {
    Freeze freeze(pid, task.pid(), {far_off()});
    return freeze.thread_states();
  });
}

uint64_t bit_of(int signal) { return uint64_t{1} << (signal - 1); }

Said say() {
  Said said{};
  size_t bytes = 0;
  said.tid = static_cast<pid_t>(::syscall(SYS_gettid));
  ::syscall(SYS_get_robust_list, 0, &said.robust_list, &bytes);
  if (__rseq_size != 0) {
    said.rseq = reinterpret_cast<uint64_t>(__builtin_thread_pointer()) +
                static_cast<uint64_t>(__rseq_offset);
  }
  return said;
}

void block(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) {
    sigaddset(&set, signal);
  }
  ::pthread_sigmask(SIG_SETMASK, &set, nullptr);
}

void ignore_it(int) {}
void ignore_it_too(int) {}

}  // namespace

TEST(thread_state_is_what_threads_say) {
  Shared<Said[kThreads]> said;
  Shared<std::atomic<int>> said_by;
  const Child child([&] {
    start_threads(kThreads, [&](int i) {
      block({SIGUSR1, SIGRTMIN + i});
      ::pthread_setname_np(::pthread_self(), ("thread " + std::to_string(i)).c_str());
      (*said)[i] = say();
      if (i == 1) {
        ::pthread_kill(::pthread_self(), SIGUSR1);
      }
      ++*said_by;
      for (;;) {
        ::pause();
      }
    });
    while (*said_by < kThreads) {
      std::this_thread::yield();
    }
  });
  std::vector<ThreadState> states = frozen_states(child.pid());
  CHECK_EQ(states.size(), size_t{kThreads + 1});
  for (int i = 0; i < kThreads; ++i) {
    const Said& own = (*said)[i];
    const auto found = std::find_if(states.begin(), states.end(),
                                    [&](const ThreadState& state) { return state.tid == own.tid; });
    CHECK(found != states.end());
    CHECK_EQ(found->signal_mask, bit_of(SIGUSR1) | bit_of(SIGRTMIN + i));
    CHECK_EQ(found->pending_signals, i == 1 ? bit_of(SIGUSR1) : 0);
    CHECK(own.robust_list != 0);
    CHECK_EQ(found->robust_list, own.robust_list);
    CHECK_EQ(found->rseq ? found->rseq->address : 0, own.rseq);
    if (found->rseq) {
      CHECK_EQ(found->rseq->signature, uint32_t{RSEQ_SIG});
      CHECK(found->rseq->bytes >= 32);
    }
    CHECK_EQ(found->name, "");
    name_thread(child.pid(), child.pid(), &*found);
    CHECK_EQ(found->name, "thread " + std::to_string(i));
    CHECK_EQ(found->namespace_tid, own.tid);
  }
}

// Every component that the processor has, in the layout that XRSTOR loads.
TEST(thread_state_has_all_registers) {
  Spinner spinner(61);
  const std::vector<ThreadState> states = frozen_states(spinner.pid());
  CHECK_EQ(states.size(), size_t{1});
  HoldState held;
  CHECK(TargetMemory(spinner.pid())
            .read(RemotePtr(reinterpret_cast<uint64_t>(&sluice_test_hold_state)), &held,
                  sizeof held));
  const std::vector<uint8_t>& is = states[0].extended_registers;
  CHECK_EQ(states[0].registers.rdi, held.want[5]);
  const auto same = [&](size_t start, size_t bytes) {
    return is.size() >= start + bytes &&
           std::memcmp(is.data() + start, held.extended_want + start, bytes) == 0;
  };
  constexpr size_t kSse = 160;
  constexpr size_t kAvx = 576;
  CHECK(same(kSse, 256));
  CHECK((held.features & 4) == 0 || same(kAvx, 256));
  // The processor itself has laid out what the thread held.
  for (const arch::ExtendedFeature& feature : arch::extended_layout()) {
    CHECK((held.features >> feature.number & 1) == 0 || same(feature.offset, feature.bytes));
  }
  spinner.check("captured");
}

TEST(extended_layout_has_all_that_the_kernel_saves) {
  const Child child([] {});
  const std::vector<uint8_t> is = frozen_states(child.pid()).at(0).extended_registers;
  constexpr size_t kOffered = 464;  // where ptrace says which features there are
  constexpr uint64_t kLegacy = 3;
  uint64_t offered = 0;
  CHECK(is.size() > kOffered + sizeof offered);
  std::memcpy(&offered, is.data() + kOffered, sizeof offered);
  uint64_t features = 0;
  uint32_t last = 0;
  size_t end = 0;
  for (const arch::ExtendedFeature& feature : arch::extended_layout()) {
    CHECK(feature.number > last);
    CHECK(feature.bytes > 0);
    last = feature.number;
    features |= uint64_t{1} << feature.number;
    end = std::max(end, size_t{feature.offset} + feature.bytes);
  }
  CHECK_EQ(features, offered & ~kLegacy);
  CHECK(end <= is.size());
}

TEST(thread_state_of_one_that_ended) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  ThreadState thread;
  thread.tid = pid;
  name_thread(pid, pid, &thread);
  CHECK_EQ(thread.name, "");
  CHECK_EQ(thread.namespace_tid, pid);
  thread.namespace_tid = 0;
  name_thread(pid, 1, &thread);
  CHECK_EQ(thread.namespace_tid, 0);
}

TEST(helper_state_tells_break_and_actions) {
  Shared<std::atomic<uint64_t>> end;
  const Child child([&] {
    struct sigaction action{};
    action.sa_handler = ignore_it;
    action.sa_flags = SA_NODEFER;
    sigaddset(&action.sa_mask, SIGTERM);
    ::sigaction(SIGUSR2, &action, nullptr);
    ::sigaction(SIGTRAP, &action, nullptr);
    ::signal(SIGHUP, SIG_IGN);
    *end = reinterpret_cast<uint64_t>(::sbrk(0));
  });
  Rig rig(child.pid());
  rig.task.run([&] {
    const auto helper = rig.start_helper();
    CHECK_EQ(program_break(helper.get()), *end);
    const auto actions = signal_actions(helper.get());
    CHECK(actions.has_value());
    for (const int signal : {SIGUSR2, SIGTRAP}) {
      const auto found =
          std::find_if(actions->begin(), actions->end(),
                       [=](const SignalAction& item) { return item.signal == signal; });
      CHECK(found != actions->end());
      CHECK_EQ(found->handler, reinterpret_cast<uint64_t>(&ignore_it));
      CHECK_EQ(found->flags & SA_NODEFER, uint64_t{SA_NODEFER});
      CHECK(found->restorer != 0);
      CHECK_EQ(found->mask, bit_of(SIGTERM));
    }
    CHECK_EQ(std::count_if(actions->begin(), actions->end(),
                           [](const SignalAction& item) { return item.signal == SIGHUP; }),
             0);
    CHECK(actions_of_caught(read_status(child.pid())->caught, actions).has_value());
    helper->end();
    CHECK_EQ(program_break(helper.get()), 0u);
  });
}

TEST(helper_state_actions_of_caught) {
  const std::optional<std::vector<SignalAction>> known = {{{2, 0x1000, 1, 2, 3}, {64, 0x2000}}};
  CHECK_EQ(actions_of_caught(0, known)->size(), size_t{0});
  CHECK_EQ(actions_of_caught(bit_of(2) | bit_of(64), known)->size(), size_t{2});
  const auto last = actions_of_caught(bit_of(64), known);
  CHECK_EQ(last->size(), size_t{1});
  CHECK_EQ(last->front().handler, 0x2000u);
  CHECK(!actions_of_caught(bit_of(2) | bit_of(3), known));
  CHECK(!actions_of_caught(0, std::nullopt));
}

// A handler that is set after the helper was cloned is not known to it.
TEST(session_does_not_tell_handlers_that_are_out_of_date) {
  for (const bool late : {false, true}) {
    const TempDir dir("/tmp");
    Shared<std::atomic<int>> step;
    const Child child([] { ::signal(SIGUSR1, ignore_it); },
                      [&]() -> int {
                        while (*step == 0) {
                          ::usleep(1000);
                        }
                        ::signal(late ? SIGUSR2 : SIGUSR1, ignore_it_too);
                        *step = 2;
                        for (;;) {
                          ::pause();
                        }
                      });
    Dump dump(options_for(child.pid(), dir, CaptureMode::kVmsplice));
    CHECK_EQ(dump.attach(), kNoErrors);
    *step = 1;
    wait_until("it has set it", [&] { return *step == 2; });
    CHECK_EQ(dump.prepare(), kNoErrors);
    dump.start_capture();
    CHECK_EQ(dump.wait_capture(), kNoErrors);
    const RoundResult result = dump.session.finish_round(0);
    CHECK(result.process.has_value());
    CHECK_EQ(result.process->signal_actions.has_value(), !late);
    CHECK(result.process->program_break != 0);
    CHECK(!result.process->auxiliary_vector.empty());
  }
}

}  // namespace sluice::test
