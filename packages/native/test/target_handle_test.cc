// The end of a process is known while its tracer still holds what is left of its threads.
#include "target/target_handle.h"

#include <poll.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <memory>

#include "check.h"
#include "child.h"
#include "faults.h"
#include "kernel/proc_stat.h"
#include "restore/restore_session.h"
#include "rig.h"
#include "session/dump_session.h"
#include "session_rig.h"
#include "target/freeze.h"
#include "tools.h"

namespace sluice::test {
namespace {

uint64_t start_of(pid_t pid) { return read_stat(pid)->start_time_ticks; }

void wait_in_threads() {
  start_threads(3, [](int) { ::pause(); });
}

// A target with several threads, all of them frozen. Whoever killed it, its zombies stay until the
// tracer reaps them at the end of the scope.
class Frozen {
 public:
  explicit Frozen(pid_t pid) : pid_(pid), rig_(pid) {
    rig_.task.run(
        [&] { freeze_ = std::make_unique<Freeze>(pid_, rig_.task.pid(), Patience{far_off()}); });
  }
  ~Frozen() {
    rig_.task.run([&] { freeze_.reset(); });
  }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

  // Each kills the process; the kernel marks it in different ways.
  void kill_process() { CHECK_EQ(::kill(pid_, SIGKILL), 0); }
  void kill_thread() { CHECK_EQ(::syscall(SYS_tgkill, pid_, pid_, SIGKILL), 0); }

 private:
  pid_t pid_;
  Rig rig_;
  std::unique_ptr<Freeze> freeze_;
};

void check_not_reported(const TargetHandle& target) {
  pollfd ended{target.pidfd().get(), POLLIN, 0};
  CHECK_EQ(::poll(&ended, 1, 0), 0);
}

using Kill = void (Frozen::*)();
constexpr Kill kKills[] = {&Frozen::kill_process, &Frozen::kill_thread};

}  // namespace

TEST(target_handle_killed_while_frozen) {
  for (const Kill kill : kKills) {
    const Child child(wait_in_threads);
    TargetHandle target(child.pid(), start_of(child.pid()));
    target.claim();
    Frozen frozen(child.pid());
    CHECK(!target.has_ended());
    CHECK(!target.is_found_ended());
    (frozen.*kill)();
    CHECK(target.is_found_ended());
    CHECK(target.has_ended());
    check_not_reported(target);
  }
}

TEST(target_handle_first_thread_has_ended) {
  const Shared<std::atomic<bool>> claimed;
  const Child child(wait_in_threads, [&] {
    while (!*claimed) {
      ::usleep(100);
    }
    return static_cast<int>(::syscall(SYS_exit, 0));
  });
  TargetHandle target(child.pid(), start_of(child.pid()));
  target.claim();
  *claimed = true;
  wait_until("it is a zombie", [&] { return state_of(child.pid(), child.pid()) == 'Z'; });
  CHECK(!target.has_ended());
  CHECK(!target.is_found_ended());
  CHECK(!TargetHandle(child.pid(), start_of(child.pid())).has_ended());
  CHECK_EQ(::kill(child.pid(), SIGKILL), 0);
  CHECK(target.has_ended());
}

// By a dumper that was killed, whose last task has not ended yet.
TEST(target_handle_that_is_claimed_for_moments) {
  const Child child([] {});
  TargetHandle target(child.pid(), start_of(child.pid()));
  {
    const Faults faults({fails(SYS_flock, EWOULDBLOCK, 0, 3)});
    target.claim();
  }
  CHECK_THROWS("ALREADY_TRACED", TargetHandle(child.pid(), start_of(child.pid())).claim());
}

TEST(target_handle_of_one_that_is_gone) {
  Child child([] {});
  TargetHandle claimed(child.pid(), start_of(child.pid()));
  claimed.claim();
  TargetHandle target(child.pid(), start_of(child.pid()));
  const TargetHandle earlier(child.pid(), start_of(child.pid()) - 1);
  CHECK(earlier.has_ended());
  CHECK(!target.has_ended());
  child.end();
  CHECK(claimed.has_ended());
  CHECK(target.has_ended());
  CHECK_THROWS("NO_SUCH_PROCESS", target.claim());
}

TEST(target_handle_explains_failures_of_a_restore) {
  for (const Kill kill : kKills) {
    const AdoptsOrphans adopts;
    const Child child(wait_in_threads);
    const Error error("RESTORE_INCOMPLETE", child.pid(), "", 0, "");
    RestoreOptions options;
    options.pid = child.pid();
    options.start_time_ticks = start_of(child.pid());
    RestoreSession session(options);
    session.attach();
    {
      Frozen frozen(child.pid());
      CHECK_EQ(session.explain(error).code(), "RESTORE_INCOMPLETE");
      (frozen.*kill)();
      CHECK_EQ(session.explain(error).code(), "TARGET_EXITED");
    }
    CHECK_EQ(session.detach(), kNoErrors);
  }
}

TEST(target_handle_explains_failures_of_a_dump) {
  for (const Kill kill : kKills) {
    const TempDir dir("/tmp");
    const Child child(wait_in_threads);
    const Error error("SYSTEM", child.pid(), "", 0, "");
    DumpSession session(options_for(child.pid(), dir, CaptureMode::kRead));
    session.control_attach();
    {
      Frozen frozen(child.pid());
      CHECK_EQ(session.explain(error).code(), "SYSTEM");
      (frozen.*kill)();
      CHECK_EQ(session.explain(error).code(), "TARGET_EXITED");
    }
    session.control_detach();
  }
}

}  // namespace sluice::test
