// The dumper dies at each step of its work in a thread that has something in every register: the
// thread must find its own way back, as if nobody had been there.
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "hold.h"
#include "kernel/proc_status.h"
#include "rig.h"
#include "spinner.h"
#include "target/freeze.h"
#include "tools.h"

namespace sluice::test {

TEST(self_heal_nobody_there) { Spinner(1).check("nothing done"); }

// That what the other tests rely on can fail.
TEST(self_heal_would_see_a_changed_register) {
  for (const bool in_red_zone : {false, true}) {
    Shared<HoldReport> report;
    Child child([] {},
                [&] {
                  const std::string wrong = hold_and_spin(3);
                  wrong.copy(report->wrong, sizeof report->wrong - 1);
                  return 0;
                });
    const TargetMemory memory(child.pid());
    wait_spinning(memory);
    TracerTask task;
    task.run([&] {
      Tracee tracee(child.pid());
      CHECK(tracee.seize(0) && tracee.interrupt());
      CHECK(tracee.wait(far_off()) == Stop::kEvent);
      arch::Registers registers{};
      CHECK(tracee.get_registers(&registers));
      if (in_red_zone) {
        const uint64_t other = 1;
        CHECK(TargetMemory::write(memory.pid(), RemotePtr(registers.rsp - 120), &other,
                                  sizeof other));
      } else {
        registers.r13 ^= 1;
        CHECK(tracee.set_registers(registers));
      }
      tracee.detach();
    });
    if (in_red_zone) {
      stop_spinning(memory);
    }
    child.finish();
    CHECK_EQ(std::string(report->wrong),
             in_red_zone ? " red zone" : " general register 12 (while spinning)");
  }
}

TEST(self_heal_while_spinning) {
  const AdoptsOrphans adopts;
  for (const Death& death : kDeaths) {
    Spinner spinner(static_cast<uint64_t>(death.times) + 10);
    DyingDumper(spinner.pid(), death.step, death.times, three_calls).wait_dead();
    spinner.check(death.name);
  }
}

// A frozen thread in which calls are made stays where it stands.
TEST(self_heal_of_a_frozen_thread) {
  const AdoptsOrphans adopts;
  const auto lent_calls = [](Rig& rig) {
    rig.maps = read_maps(rig.memory.pid());
    rig.gadgets = find_gadgets(rig.memory, rig.maps);
    Freeze freeze(rig.memory.pid(), rig.task.pid(), {far_off()});
    for (int times = 0; times < 2; ++times) {
      RemoteThread thread(rig.memory, rig.gadgets, rig.maps, freeze.tracees());
      for (int i = 0; i < 3; ++i) {
        CHECK_EQ(thread.call(make_call(SYS_getpid)), rig.memory.pid());
      }
    }
    CHECK_EQ(state_of(rig.memory.pid(), rig.memory.pid()), 't');
  };
  for (const Death& death : kDeaths) {
    Spinner spinner(static_cast<uint64_t>(death.times) + 50);
    DyingDumper(spinner.pid(), death.step, death.times, lent_calls).wait_dead();
    spinner.check(death.name);
  }
  Spinner spinner(60);
  Rig rig(spinner.pid());
  rig.task.run([&] { lent_calls(rig); });
  spinner.check("calls in a frozen thread");
}

TEST(self_heal_with_tile_registers) {
  if (!may_use_tiles()) {
    SKIP("no AMX here");
  }
  const AdoptsOrphans adopts;
  for (const Death& death : {kDeaths[3], kDeaths[5]}) {
    Spinner spinner(20, true);
    DyingDumper(spinner.pid(), death.step, death.times, three_calls).wait_dead();
    spinner.check(death.name);
  }
}

TEST(self_heal_is_not_needed_where_the_dumper_lives) {
  Spinner spinner(30);
  Rig rig(spinner.pid());
  for (int i = 0; i < 100; ++i) {
    CHECK_EQ(rig.in_thread([](RemoteThread& t) { return t.call(make_call(SYS_getpid)); }),
             spinner.pid());
  }
  spinner.check("100 attaches");
}

// Not at a chosen step but anywhere, again and again in the same target. SLUICE_STORM_KILLS sets
// how often.
TEST(self_heal_at_any_instant) {
  const AdoptsOrphans adopts;
  Spinner spinner(40);
  const char* const wanted = ::getenv("SLUICE_STORM_KILLS");
  const int kills = wanted == nullptr ? 40 : ::atoi(wanted);
  Random random(5);
  for (int i = 0; i < kills; ++i) {
    Shared<std::atomic<int>> rounds;
    Shared<std::atomic<pid_t>> tracer;
    Child dumper([] {},
                 [&]() -> int {
                   Rig rig(spinner.pid());
                   *tracer = rig.task.pid();
                   for (;;) {
                     rig.task.run([&] { three_calls(rig); });
                     ++*rounds;
                   }
                 });
    wait_until("the dumper works", [&] { return rounds->load() > 0; });
    const timespec pause{0, static_cast<long>(below(random, 500'000))};
    ::nanosleep(&pause, nullptr);
    ::kill(dumper.pid(), SIGKILL);
    CHECK_EQ(dumper.finish(), 1000 + SIGKILL);
    reap_orphan(*tracer);
    wait_until("the target is let go", [&] { return read_status(spinner.pid())->tracer_pid == 0; });
  }
  spinner.check("many deaths");
}

}  // namespace sluice::test
