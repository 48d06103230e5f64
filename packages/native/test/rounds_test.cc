// Rounds in C++ with real threads: what the rounds hold together is the memory of the frozen
// target.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <fstream>
#include <map>

#include "child.h"
#include "faults.h"
#include "session_rig.h"
#include "target/target_memory.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 600;

// Writes and drops pages all the time.
class Busy {
 public:
  explicit Busy(uint64_t seed, int sharing = MAP_PRIVATE)
      : memory_(static_cast<char*>(::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                                          sharing | MAP_ANONYMOUS, -1, 0))),
        child_([this] { std::fill(memory_, memory_ + kPages * kPageBytes, 'b'); },
               [this, seed] {
                 Random random(seed);
                 for (;;) {
                   char* const page = memory_ + below(random, kPages) * kPageBytes;
                   if (below(random, 10) == 0) {
                     ::madvise(page, kPageBytes, MADV_DONTNEED);
                   } else {
                     *reinterpret_cast<volatile uint64_t*>(page + 8 * below(random, 512)) =
                         random();
                   }
                   if (below(random, 50) == 0) {
                     ::usleep(100);
                   }
                 }
                 return 0;
               }) {}
  ~Busy() { ::munmap(memory_, kPages * kPageBytes); }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  pid_t pid() const { return child_.pid(); }
  uint64_t start() const { return reinterpret_cast<uint64_t>(memory_); }

 private:
  char* memory_;
  Child child_;
};

// The pages of all rounds so far, the newest of each, in the memory that the target works on.
class Chain {
 public:
  explicit Chain(const Busy& target)
      : range_{target.start(), target.start() + kPages * kPageBytes} {}

  void add(const RoundResult& result, const std::string& dir) {
    std::map<uint64_t, std::string> own;
    for (const StoredRun& run : result.table.runs) {
      for (uint64_t i = 0; i < run.pages; ++i) {
        const uint64_t at = run.address + i * kPageBytes;
        if (at < range_.start || at >= range_.end) {
          continue;
        }
        if (run.shard == kInParent) {
          CHECK(pages_.contains(at));
          own[at] = pages_[at];
        } else {
          own[at] = page_of(dir, run.shard, run.offset + i * kPageBytes);
        }
      }
    }
    if (result.kind == RoundKind::kLive) {
      for (auto& [at, bytes] : own) {
        pages_[at] = std::move(bytes);
      }
    } else {
      pages_ = std::move(own);
    }
  }
  // Of the memory of `target`, which stands still.
  void compare(const Busy& target) const {
    const TargetMemory memory(target.pid());
    const std::string zeros(kPageBytes, '\0');
    std::string is(kPageBytes, '\0');
    for (uint64_t i = 0; i < kPages; ++i) {
      const uint64_t at = target.start() + i * kPageBytes;
      CHECK(memory.read(RemotePtr(at), is.data(), kPageBytes));
      const auto stored = pages_.find(at);
      if (is != (stored == pages_.end() ? zeros : stored->second)) {
        throw Failure{__FILE__, __LINE__, "page " + std::to_string(i) + " differs"};
      }
    }
  }

 private:
  static std::string page_of(const std::string& dir, uint32_t shard, uint64_t offset) {
    std::ifstream file(dir + "/shard-000" + std::to_string(shard) + ".img", std::ios::binary);
    std::string bytes(kPageBytes, '\0');
    file.seekg(static_cast<std::streamoff>(offset));
    CHECK(file.read(bytes.data(), kPageBytes).good());
    return bytes;
  }

  PageRange range_;
  std::map<uint64_t, std::string> pages_;
};

// Two live rounds, and two more with the final round, right after each other.
void check_rounds(CaptureMode mode, TrackerMode tracker, After after, uint64_t seed,
                  int sharing = MAP_PRIVATE) {
  const TempDir dir("/tmp");
  const Busy target(seed, sharing);
  const std::string before = snapshot(target.pid());
  SessionOptions options = options_for(target.pid(), dir, mode);
  options.lanes = 2;
  options.drains = 2;
  options.tracker = tracker;
  if (sharing == MAP_SHARED) {
    options.budget_bytes = 4 << 20;  // in a half of it there is room for what the live round takes
  }
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.track(), kNoErrors);
  Chain chain(target);
  const auto directory = [&](size_t round) {
    const std::string path = dir.path() + "/round-" + std::to_string(round);
    CHECK(::mkdir(path.c_str(), 0700) == 0);
    return path;
  };
  for (size_t round = 0; round < 2; ++round) {
    const std::string path = directory(round);
    CHECK_EQ(dump.prepare(RoundKind::kLive, path), kNoErrors);
    dump.start_capture(round, round);
    CHECK_EQ(dump.wait_capture(), kNoErrors);
    chain.add(dump.session.finish_round(round), path);
  }
  const std::string path = directory(2);
  const std::string path_of_next = directory(3);
  CHECK_EQ(dump.prepare(RoundKind::kLive, path), kNoErrors);
  CHECK_EQ(dump.repeat(path_of_next), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kFinal, dir.path(), after == After::kResume), kNoErrors);
  dump.start_capture(2, 4, after);
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  chain.add(dump.session.finish_round(2), path);
  chain.add(dump.session.finish_round(3), path_of_next);
  const RoundResult final = dump.session.finish_round(4);
  CHECK_EQ(final.table.parent_pages > 0, tracker != TrackerMode::kNone);
  chain.add(final, dir.path());
  CHECK_EQ(dump.session.held(), after == After::kStop);
  if (after == After::kStop) {
    chain.compare(target);
    CHECK_EQ(dump.release(DumpSession::Release::kResume), kNoErrors);
  }
  dump.detach();
  CHECK_EQ(dump.warnings, kNoErrors);
  CHECK_EQ(snapshot(target.pid()), before);
}

void fail_capture(Dump* dump, size_t first, size_t last) {
  const Faults faults({fails(SYS_splice, EIO)});
  dump->start_capture(first, last);
  CHECK(!dump->wait_capture().empty());
}

// The final round `number`, which all pages are owed to.
void check_all_owed(Dump* dump, size_t number, const Busy& target, const TempDir& dir) {
  dump->start_capture(number, number, After::kStop);
  CHECK_EQ(dump->wait_capture(), kNoErrors);
  const RoundResult final = dump->session.finish_round(number);
  CHECK_EQ(final.table.parent_pages, uint64_t{0});
  uint64_t end = 0;
  for (const StoredRun& run : final.table.runs) {
    CHECK(run.address >= end);
    end = run.address + run.pages * kPageBytes;
  }
  Chain chain(target);
  chain.add(final, dir.path());
  chain.compare(target);
  CHECK_EQ(dump->release(DumpSession::Release::kResume), kNoErrors);
}

// A round that fails. What it had collected must be in the next one.
void check_owed(TrackerMode tracker) {
  const TempDir dir("/tmp");
  const TempDir other("/tmp");
  const Busy target(1);
  SessionOptions options = options_for(target.pid(), dir, CaptureMode::kVmsplice);
  options.tracker = tracker;
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.track(), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kLive, other.path()), kNoErrors);
  fail_capture(&dump, 0, 0);
  CHECK_EQ(dump.prepare(RoundKind::kFinal, dir.path()), kNoErrors);
  check_all_owed(&dump, 1, target, dir);
}

// Rounds right after each other that fail when their drains begin, which is after a lane that had
// nothing to do in the last one was done. What it gave away before must not come with the next
// round.
void check_owed_at_once(TrackerMode tracker) {
  const TempDir dir("/tmp");
  const TempDir lost[3] = {TempDir("/tmp"), TempDir("/tmp"), TempDir("/tmp")};
  const Busy target(1);
  SessionOptions options = options_for(target.pid(), dir, CaptureMode::kVmsplice);
  options.tracker = tracker;
  options.lanes = 2;
  options.budget_bytes = 32 << 20;  // nobody waits for the drains
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.track(), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kLive, lost[0].path()), kNoErrors);
  CHECK_EQ(dump.repeat(lost[1].path()), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kFinal, lost[2].path(), true), kNoErrors);
  fail_capture(&dump, 0, 2);
  CHECK_EQ(dump.prepare(RoundKind::kFinal, dir.path()), kNoErrors);
  dump.session.set_cuts(3, {target.start() + kPages / 2 * kPageBytes});
  check_all_owed(&dump, 3, target, dir);
}

// Those that tell pages apart. Throws Skip if there is none.
std::vector<TrackerMode> real_trackers() {
  std::vector<TrackerMode> modes = trackers_here();
  modes.erase(modes.begin());
  if (modes.empty()) {
    SKIP("no tracker");
  }
  return modes;
}

}  // namespace

TEST(rounds_hold_the_memory_together) {
  for (const TrackerMode tracker : trackers_here()) {
    check_rounds(CaptureMode::kVmsplice, tracker, After::kStop, 2);
    check_rounds(CaptureMode::kRead, tracker, After::kStop, 3);
  }
}

TEST(rounds_let_the_target_go_on) {
  for (const TrackerMode tracker : real_trackers()) {
    check_rounds(CaptureMode::kVmsplice, tracker, After::kResume, 1);
    check_rounds(CaptureMode::kRead, tracker, After::kResume, 2);
  }
}

// Shared memory is taken under freeze, and there is more of it than the slots hold: the drains,
// which wait for the thaw with what the round before took, have to begin earlier.
TEST(rounds_are_drained_under_freeze_where_slots_run_out) {
  for (const TrackerMode tracker : real_trackers()) {
    check_rounds(CaptureMode::kVmsplice, tracker, After::kResume, 1, MAP_SHARED);
  }
}

TEST(rounds_owe_what_failed) {
  for (const TrackerMode tracker : real_trackers()) {
    check_owed(tracker);
    check_owed_at_once(tracker);
  }
}

}  // namespace sluice::test
