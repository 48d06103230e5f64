// The dumper dies at each step of making or using a helper: the target goes on as if nobody had
// been there, the helper ends by itself, and the next dumper removes what is left.
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstring>
#include <vector>

#include "check.h"
#include "kernel/proc_stat.h"
#include "rig.h"
#include "seccomp_filter.h"
#include "spinner.h"
#include "target/twin_remote.h"
#include "tools.h"

namespace sluice::test {
namespace {

using steps::Step;

// The calls are mmap of the scratch, then clone.
constexpr Death kHelperDeaths[] = {
    {"before mmap", Step::kReturnEntered, 1},
    {"at the entry of mmap", Step::kCallEntered, 1},
    {"after mmap", Step::kCallLeft, 1},
    {"before clone", Step::kReturnEntered, 2},
    {"at the entry of clone", Step::kCallEntered, 2},
    {"in clone", Step::kCloned, 1},
    {"after clone", Step::kCallLeft, 2},
    {"mask returned", Step::kMaskReturned, 1},
    {"put back", Step::kPutBack, 1},
    {"helper named", Step::kHelperNamed, 1},
    {"helper secured", Step::kHelperSecured, 1},
    {"helper ready", Step::kHelperReady, 1},
};

// All in a helper that is ready.
constexpr Death kTwinDeaths[] = {
    {"in the clone of the twin", Step::kTwinCloned, 1},
    {"twin secured", Step::kTwinSecured, 1},
    {"twin captured", Step::kTwinCaptured, 1},
    {"twin ended", Step::kTwinEnded, 1},
};

void start_helper(Rig& rig) { rig.start_helper(); }

void make_twin(Rig& rig) {
  const auto helper = rig.start_helper();
  std::vector<HelperRemains> remains;
  Twin::make(helper.get(), rig.memory.pid(), &remains)->end();
}

bool all_children_are_zombies(pid_t pid) {
  for (const pid_t child : children_of(pid)) {
    const auto stat = read_stat(child);
    if (stat && stat->state != 'Z') {
      return false;
    }
  }
  return true;
}

std::vector<HelperRemains> remains_in(Rig& rig) {
  return find_remains(rig.memory, read_maps(rig.memory.pid()));
}

void remove_all(Rig& rig) {
  rig.task.run([&] {
    const auto thread = rig.stop_thread();
    CHECK_EQ(remove_remains(thread.get(), remains_in(rig)).size(), 0u);
  });
  CHECK_EQ(remains_in(rig).size(), 0u);
}

// A dumper dies, and the next one removes what it left: of neither does anything remain.
void check_death(Spinner& spinner, const Death& death, void (*work)(Rig&) = start_helper) {
  const std::string before = snapshot(spinner.pid());
  DyingDumper(spinner.pid(), death.step, death.times, work).wait_dead();
  // Until it has found its way back, its signals are blocked, and it may have yet to make a helper.
  wait_spinning(TargetMemory(spinner.pid()));
  wait_until(death.name, [&] { return all_children_are_zombies(spinner.pid()); });
  Rig rig(spinner.pid());
  remove_all(rig);
  check_unchanged(spinner.pid(), before);
  spinner.check(death.name);
}

// A helper of a dumper process that holds it until killed.
class OtherDumper {
 public:
  explicit OtherDumper(pid_t target)
      : child_([] {},
               [this, target] {
                 Rig rig(target);
                 *tracer_ = rig.task.pid();
                 rig.task.run([&] {
                   const auto helper = rig.start_helper();
                   *helper_ = helper->pid();
                   for (;;) {
                     ::pause();
                   }
                 });
                 return 0;
               }) {
    wait_until("the helper is there", [&] { return helper_->load() != 0; });
  }
  pid_t helper() const { return *helper_; }
  void kill() {
    ::kill(child_.pid(), SIGKILL);
    child_.finish();
    reap_orphan(*tracer_);
  }

 private:
  Shared<std::atomic<pid_t>> helper_;
  Shared<std::atomic<pid_t>> tracer_;
  Child child_;
};

}  // namespace

TEST(helper_dumper_dies_at_each_step) {
  const AdoptsOrphans adopts;
  for (const Death& death : kHelperDeaths) {
    Spinner spinner(50);
    check_death(spinner, death);
  }
}

TEST(helper_dumper_of_a_filtered_target_dies) {
  const AdoptsOrphans adopts;
  for (const Death& death : kHelperDeaths) {
    Spinner spinner([] { fail_all_that_helpers_do(); }, 51, false);
    check_death(spinner, death);
  }
}

TEST(helper_dumper_dies_at_each_step_of_a_twin) {
  const AdoptsOrphans adopts;
  for (const Death& death : kTwinDeaths) {
    Spinner spinner(52);
    check_death(spinner, death, make_twin);
    Spinner filtered([] { fail_all_that_helpers_do(); }, 53, false);
    check_death(filtered, death, make_twin);
  }
}

TEST(helper_remains_are_found_and_removed) {
  const AdoptsOrphans adopts;
  const Child child([] {});
  const std::string before = snapshot(child.pid());
  // Of several dumpers, one after the other.
  for (int i = 0; i < 3; ++i) {
    OtherDumper dumper(child.pid());
    dumper.kill();
  }
  wait_until("the helpers are dead", [&] { return all_children_are_zombies(child.pid()); });
  Rig rig(child.pid());
  CHECK_EQ(remains_in(rig).size(), 6u);
  remove_all(rig);
  check_unchanged(child.pid(), before);
}

TEST(helper_of_a_living_dumper_is_no_remains) {
  const AdoptsOrphans adopts;
  const Child child([] {});
  const std::string before = snapshot(child.pid());
  OtherDumper dumper(child.pid());
  Rig rig(child.pid());
  CHECK_EQ(remains_in(rig).size(), 0u);
  // A second helper beside the first.
  rig.task.run([&] {
    const auto helper = rig.start_helper();
    CHECK_EQ(remains_in(rig).size(), 0u);
    CHECK_EQ(helper->call(make_call(SYS_getpid)), helper->pid());
    CHECK_EQ(remove_remains(rig.stop_thread().get(), {helper->end()}).size(), 0u);
  });
  CHECK_EQ(read_stat(dumper.helper())->comm, "sluice-helper");
  dumper.kill();
  wait_until("the helper is dead", [&] { return all_children_are_zombies(child.pid()); });
  remove_all(rig);
  check_unchanged(child.pid(), before);
}

// Things of the target's own that look alike must not be touched.
TEST(helper_remains_are_told_from_what_is_the_targets) {
  const Child child([] {
    const auto exit_with = [](int flags, const char* name, int code) {
      const long pid = ::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr);
      if (pid == 0) {
        ::prctl(PR_SET_NAME, name);
        ::syscall(SYS_exit_group, code);
      }
      siginfo_t info;
      ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT | __WALL);
    };
    exit_with(SIGCHLD, "sluice-helper", 0);
    exit_with(SIGCHLD, "other", arch::kHelperExitCode);
    exit_with(0, "other", 0);
    // The size and protection of a scratch, but elsewhere or with something else in it.
    for (const uint64_t at : {0x200000000000ull, 0x20000051c000ull}) {
      void* memory = ::mmap(reinterpret_cast<void*>(at), kScratchBytes, PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      CHECK_EQ(reinterpret_cast<uint64_t>(memory), at);
      std::strcpy(static_cast<char*>(memory), "the target's own");
    }
  });
  Rig rig(child.pid());
  CHECK_EQ(remains_in(rig).size(), 0u);
  CHECK_EQ(children_of(child.pid()).size(), 3u);
}

TEST(helper_scratch_places) {
  const auto mapping = [](uint64_t start, uint64_t end) {
    Mapping made;
    made.start = start;
    made.end = end;
    return made;
  };
  // In the largest gap, aligned, clear of both ends, ascending, without double.
  const auto places =
      scratch_places({mapping(0x400000, 0x500000), mapping(0x7f0000000000, 0x7fffffffe000)});
  CHECK_EQ(places.size(), 64u);
  uint64_t last = 0;
  for (const RemotePtr place : places) {
    CHECK(place.value() > std::max<uint64_t>(last, 0x500000));
    CHECK(place.value() + kScratchBytes < 0x7f0000000000);
    CHECK_EQ(place.value() % 4096, 0u);
    last = place.value();
  }
  CHECK_EQ(scratch_places({mapping(0x1000, 0x7ffffffff000)}).size(), 0u);
  // The gap above the last mapping is not looked at: the stack grows down from there.
  CHECK_EQ(scratch_places({mapping(0, 0x100000000000)}).size(), 0u);
}

}  // namespace sluice::test
