// The dumper dies at each step of its work in a thread that was blocked in a system call: the call
// must go on, and neither fail nor return early.
#include <unistd.h>

#include "blocked.h"
#include "check.h"
#include "kernel/proc_status.h"
#include "rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

// A relative sleep may begin anew, but it must not be cut short. False: the dumper came too late.
bool sleeper_heals(const Death& death, long milliseconds) {
  struct Memory {
    timespec time;
    std::atomic<bool> woke;
    std::atomic<bool> dumper_dead;
    long result;
    char wrong[512];
  };
  Shared<Memory> memory;
  Child child([] {},
              [&] {
                memory->time = {milliseconds / 1000, milliseconds % 1000 * 1'000'000};
                const HeldCall sleep{SYS_nanosleep, {reinterpret_cast<uint64_t>(&memory->time)}};
                const auto start = Clock::now();
                const std::string wrong = hold_in_call(9, sleep, &memory->result);
                const bool whole = Clock::now() - start >= std::chrono::milliseconds(milliseconds);
                wrong.copy(memory->wrong, sizeof memory->wrong - 1);
                memory->woke = true;
                // A dumper that comes too late must find somebody.
                wait_until("the dumper is dead", [&] { return memory->dumper_dead.load(); });
                return wrong.empty() && whole ? 0 : 1;
              });
  wait_until("it sleeps",
             [&] { return blocked_in(child.pid(), child.pid()) == SYS_nanosleep || memory->woke; });
  DyingDumper(child.pid(), death.step, death.times, three_calls).wait_dead();
  const bool in_time = !memory->woke;
  memory->dumper_dead = true;
  if (child.finish() != 0 || memory->result != 0) {
    throw Failure{__FILE__, __LINE__,
                  std::string("slept with result ") + std::to_string(memory->result) +
                      ", changed:" + memory->wrong + "; dumper died " + death.name};
  }
  return in_time;
}

}  // namespace

TEST(self_heal_blocked_calls_go_on) {
  const AdoptsOrphans adopts;
  for (const BlockedKind& kind : blocked_kinds()) {
    for (const Death& death : kDeaths) {
      Blocked blocked(kind);
      blocked.wait_blocked();
      DyingDumper(blocked.pid(), death.step, death.times, three_calls).wait_dead();
      try {
        blocked.wait_blocked();
        blocked.finish();
      } catch (const Failure& failure) {
        throw Failure{failure.file, failure.line, failure.what + "; dumper died " + death.name};
      }
    }
  }
}

TEST(self_heal_sleep_is_not_cut_short) {
  const AdoptsOrphans adopts;
  for (const Death& death : kDeaths) {
    long milliseconds = 250;
    while (!sleeper_heals(death, milliseconds)) {
      milliseconds *= 2;
    }
  }
}

}  // namespace sluice::test
