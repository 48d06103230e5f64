// Flags of mappings that were made or changed after the dump had begun.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child.h"
#include "session_rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kBytes = 4 * kPageBytes;

// When it is told to, it asks for one of its mappings not to be in cores, and makes a new one that
// no fork is to copy and that stays in memory.
class Target {
 public:
  Target()
      : child_([&] { at_->first = map(); },
               [&] {
                 while (!at_->order) {
                   ::usleep(1000);
                 }
                 ::madvise(at_->first, kBytes, MADV_DONTDUMP);
                 at_->second = map();
                 ::madvise(at_->second, kBytes, MADV_DONTFORK);
                 ::syscall(SYS_mlock, at_->second.load(), kBytes);  // ASan makes mlock() a no-op
                 at_->done = true;
                 for (;;) {
                   ::pause();
                 }
                 return 0;
               }) {}
  pid_t pid() const { return child_.pid(); }
  void change() {
    at_->order = true;
    wait_until("the target has obeyed", [&] { return at_->done.load(); });
  }
  void check(const RoundResult& result) const {
    const std::string first = flags_at(result, at_->first);
    CHECK(has_vm_flag(first, "rd") && has_vm_flag(first, "dd"));
    CHECK(!has_vm_flag(first, "uw"));
    const std::string second = flags_at(result, at_->second);
    CHECK(has_vm_flag(second, "dc") && has_vm_flag(second, "lo"));
    CHECK(!has_vm_flag(second, "uw"));
  }

 private:
  // Among pages that cannot be touched, so that it is not joined to another one.
  static char* map() {
    auto* const around = static_cast<char*>(
        ::mmap(nullptr, kBytes + 2 * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(around != MAP_FAILED);
    char* const at = around + kPageBytes;
    CHECK(::mprotect(at, kBytes, PROT_READ | PROT_WRITE) == 0);
    at[0] = 'x';
    return at;
  }
  static std::string flags_at(const RoundResult& result, const char* address) {
    for (size_t i = 0; i < result.plan.vmas.size(); ++i) {
      if (result.plan.vmas[i].mapping.start == reinterpret_cast<uint64_t>(address)) {
        return result.vm_flags[i];
      }
    }
    throw Failure{__FILE__, __LINE__, "a mapping is not in the plan"};
  }
  struct At {
    std::atomic<char*> first;
    std::atomic<char*> second;
    std::atomic<bool> order;
    std::atomic<bool> done;
  };
  Shared<At> at_;
  Child child_;
};

void check_one_freeze(bool copy, After after) {
  Target target;
  const TempDir dir("/tmp");
  Dump dump(options_for(target.pid(), dir, CaptureMode::kVmsplice));
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kWhole, "", copy), kNoErrors);
  target.change();
  dump.start_capture(0, 0, after);
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  target.check(dump.session.finish_round(0));
  if (after == After::kStop) {
    CHECK_EQ(dump.release(DumpSession::Release::kResume), kNoErrors);
  }
}

}  // namespace

TEST(vm_flags_that_changed_since_the_dump_began) {
  check_one_freeze(true, After::kResume);
  check_one_freeze(false, After::kResume);
  check_one_freeze(false, After::kStop);
}

TEST(vm_flags_that_changed_since_the_first_round) {
  for (const TrackerMode tracker : trackers_here()) {
    Target target;
    const TempDir dir("/tmp");
    const TempDir live("/tmp");
    SessionOptions options = options_for(target.pid(), dir, CaptureMode::kVmsplice);
    options.tracker = tracker;
    Dump dump(options);
    CHECK_EQ(dump.attach(), kNoErrors);
    CHECK_EQ(dump.track(), kNoErrors);
    CHECK_EQ(dump.prepare(RoundKind::kLive, live.path()), kNoErrors);
    target.change();
    CHECK_EQ(dump.prepare(RoundKind::kFinal, "", true), kNoErrors);
    dump.start_capture(0, 1);
    CHECK_EQ(dump.wait_capture(), kNoErrors);
    dump.session.finish_round(0);
    target.check(dump.session.finish_round(1));
  }
}

}  // namespace sluice::test
