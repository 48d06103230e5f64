// The twin in itself, and a snapshot by it: what a target that writes in a certain order can show.
#include "target/twin_remote.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>

#include "check.h"
#include "child.h"
#include "faults.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"
#include "rig.h"
#include "seccomp_filter.h"
#include "session_rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 64;

char* map_pages(int flags = MAP_PRIVATE | MAP_ANONYMOUS, uint64_t pages = kPages) {
  void* const memory = ::mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  CHECK(memory != MAP_FAILED);
  return static_cast<char*>(memory);
}

RemotePtr ptr(char* address) { return RemotePtr(reinterpret_cast<uint64_t>(address)); }

// A whole life of a twin, with `use` in the middle, after which the target is as it was.
template <typename Use>
void live(pid_t pid, Use use, DespiteFilter despite = DespiteFilter::kNo) {
  wait_until("it rests", [pid] { return state_of(pid, pid) == 'S'; });
  const std::string before = snapshot(pid);
  Rig rig(pid, despite);
  rig.task.run([&] {
    const auto helper = rig.start_helper();
    std::vector<HelperRemains> remains;
    const auto twin = Twin::make(helper.get(), pid, &remains);
    use(*twin);
    twin->end();
    twin->end();
    CHECK(!twin->stands());
    remains.push_back(helper->end());
    CHECK_EQ(remains.size(), 2u);
    CHECK_EQ(remove_remains(rig.stop_thread().get(), remains).size(), 0u);
  });
  wait_until("it rests again", [pid] { return state_of(pid, pid) == 'S'; });
  check_unchanged(pid, before);
}

// Writes its number of the pass to every page, in order, in the passes 1, 2, ...: at any moment the
// first pages show one number, and all others the number before.
class InOrder {
 public:
  explicit InOrder(uint64_t pages)
      : pages_(pages),
        memory_(map_pages(MAP_PRIVATE | MAP_ANONYMOUS, pages)),
        special_(map_pages(MAP_PRIVATE | MAP_ANONYMOUS, 3)),
        shared_(map_pages(MAP_SHARED | MAP_ANONYMOUS, 3)),
        child_([] {},
               [this] {
                 ::madvise(special_, kPageBytes, MADV_DONTFORK);
                 ::madvise(special_ + 2 * kPageBytes, kPageBytes, MADV_WIPEONFORK);
                 for (uint64_t pass = 1;; ++pass) {
                   for (char* const page : all()) {
                     *reinterpret_cast<volatile uint64_t*>(page) = pass;
                   }
                 }
                 return 0;
               }) {}
  ~InOrder() {
    ::munmap(memory_, pages_ * kPageBytes);
    ::munmap(special_, 3 * kPageBytes);
    ::munmap(shared_, 3 * kPageBytes);
  }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;
  pid_t pid() const { return child_.pid(); }

  // In the order in which they are written. Those that a twin does not have are between the others.
  std::vector<char*> all() const {
    std::vector<char*> pages;
    for (uint64_t i = 0; i < pages_; ++i) {
      pages.push_back(memory_ + i * kPageBytes);
      if (i * 4 / pages_ != (i + 1) * 4 / pages_ && i * 4 / pages_ < 3) {
        pages.push_back(special_ + i * 4 / pages_ * kPageBytes);
        pages.push_back(shared_ + i * 4 / pages_ * kPageBytes);
      }
    }
    return pages;
  }

 private:
  uint64_t pages_;
  char* memory_;
  char* special_;
  char* shared_;
  Child child_;
};

// First words of pages, newest round last.
void add_round(const RoundResult& result, const std::string& dir,
               std::map<uint64_t, uint64_t>* words) {
  std::map<uint32_t, std::ifstream> shards;
  for (const StoredRun& run : result.table.runs) {
    if (run.shard == kInParent) {
      continue;
    }
    std::ifstream& shard = shards[run.shard];
    if (!shard.is_open()) {
      shard.open(dir + "/shard-000" + std::to_string(run.shard) + ".img", std::ios::binary);
    }
    for (uint64_t i = 0; i < run.pages; ++i) {
      uint64_t word = 0;
      shard.seekg(static_cast<std::streamoff>(run.offset + i * kPageBytes));
      CHECK(shard.read(reinterpret_cast<char*>(&word), sizeof word).good());
      (*words)[run.address + i * kPageBytes] = word;
    }
  }
}

void check_in_order(const InOrder& target, const std::map<uint64_t, uint64_t>& words) {
  const std::vector<char*> pages = target.all();
  const auto word = [&](char* page) {
    const auto found = words.find(reinterpret_cast<uint64_t>(page));
    return found == words.end() ? 0 : found->second;
  };
  const uint64_t newest = word(pages.front());
  bool older = false;
  for (size_t i = 0; i < pages.size(); ++i) {
    older = older || word(pages[i]) != newest;
    if (word(pages[i]) != newest - (older ? 1 : 0)) {
      throw Failure{__FILE__, __LINE__,
                    "page " + std::to_string(i) + " of " + std::to_string(pages.size()) + " has " +
                        std::to_string(word(pages[i])) + ", the first " + std::to_string(newest)};
    }
  }
}

// One snapshot; `live`: with a live round right before it.
RoundResult take_snapshot(const InOrder& target, Consistency consistency, CaptureMode mode,
                          bool live) {
  const TempDir dir("/tmp");
  const TempDir live_dir("/tmp");
  SessionOptions options = options_for(target.pid(), dir, mode);
  options.lanes = 2;
  options.tracker = live ? TrackerMode::kUffdWp : TrackerMode::kNone;
  options.consistency = consistency;
  Dump dump(options);
  std::map<uint64_t, uint64_t> words;
  CHECK_EQ(dump.attach(), kNoErrors);
  size_t final = 0;
  if (live) {
    CHECK_EQ(dump.track(), kNoErrors);
    CHECK_EQ(dump.prepare(RoundKind::kLive, live_dir.path()), kNoErrors);
    CHECK_EQ(dump.prepare(RoundKind::kFinal, dir.path(), true), kNoErrors);
    final = 1;
  } else {
    CHECK_EQ(dump.prepare(RoundKind::kWhole, dir.path(), true), kNoErrors);
  }
  dump.start_capture(0, final);
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  if (live) {
    add_round(dump.session.finish_round(0), live_dir.path(), &words);
  }
  RoundResult result = dump.session.finish_round(final);
  add_round(result, dir.path(), &words);
  dump.detach();
  CHECK_EQ(dump.warnings, kNoErrors);
  CHECK_EQ(children_of(target.pid()).size(), 0u);
  check_in_order(target, words);
  return result;
}

bool has_uffd() {
  const auto modes = trackers_here();
  return std::find(modes.begin(), modes.end(), TrackerMode::kUffdWp) != modes.end();
}

}  // namespace

TEST(twin_has_the_memory_as_it_was) {
  char* const memory = map_pages();
  char* const unforked = map_pages();
  char* const wiped = map_pages();
  const Child child([&] {
    for (char* const each : {memory, unforked, wiped}) {
      std::memset(each, 'o', kPages * kPageBytes);
    }
    ::madvise(unforked, kPages * kPageBytes, MADV_DONTFORK);
    ::madvise(wiped, kPages * kPageBytes, MADV_WIPEONFORK);
    ::mprotect(memory + kPageBytes, kPageBytes, PROT_NONE);
  });
  live(child.pid(), [&](Twin& twin) {
    CHECK_EQ(state_of(twin.pid(), twin.pid()), 't');
    CHECK_EQ(read_stat(twin.pid())->exit_signal, 0);
    CHECK_EQ(read_status(twin.pid())->ppid, child.pid());
    CHECK(TargetMemory::write(child.pid(), ptr(memory), "new", 3));
    std::array<char, 3> bytes{};
    CHECK(twin.memory().read(ptr(memory), bytes.data(), bytes.size()));
    CHECK_EQ(std::string(bytes.data(), 3), "ooo");
    // Whatever the protection.
    CHECK(twin.memory().read(ptr(memory + kPageBytes), bytes.data(), bytes.size()));
    CHECK_EQ(std::string(bytes.data(), 3), "ooo");
    const auto has = [&](char* start) {
      const uint64_t at = ptr(start).value();
      return twin.has({at, at + kPageBytes}, PageFilter::kAnonymous);
    };
    CHECK(has(memory) && has(memory + kPageBytes));
    CHECK(!has(unforked) && !has(wiped));
    twin.give_way();
    CHECK_EQ(proc_text(twin.pid(), "oom_score_adj"), "1000\n");
    CHECK(proc_text(child.pid(), "oom_score_adj") != "1000\n");
    CHECK(twin.stands());
  });
  for (char* const each : {memory, unforked, wiped}) {
    ::munmap(each, kPages * kPageBytes);
  }
}

TEST(twin_of_a_filtered_target) {
  const auto check = [](Twin& twin) { CHECK(twin.stands()); };
  const Child mild([] { fail_all_that_helpers_do(); });
  live(mild.pid(), check);
  const Child child([] { kill_on_all_that_helpers_do(); });
  live(child.pid(), check, DespiteFilter::kYes);
}

TEST(twin_that_cannot_be_made) {
  const Child child([] {});
  Rig rig(child.pid());
  rig.task.run([&] {
    const auto helper = rig.start_helper();
    sys::Fault fault;
    fault.number = SYS_clone;
    fault.remote = true;
    fault.errnum = EAGAIN;
    sys::set_faults({fault});
    std::string code;
    std::vector<HelperRemains> remains;
    try {
      Twin::make(helper.get(), child.pid(), &remains);
    } catch (const Error& error) {
      code = error.code();
    }
    sys::set_faults({});
    CHECK_EQ(code, "INJECTION");
    CHECK_EQ(remains.size(), 0u);
    // A twin that somebody kills.
    const auto twin = Twin::make(helper.get(), child.pid(), &remains);
    ::kill(twin->pid(), SIGKILL);
    wait_until("it is gone", [&] { return !twin->stands(); });
    twin->end();
    remains.push_back(helper->end());
    CHECK_EQ(remove_remains(rig.stop_thread().get(), remains).size(), 0u);
  });
  CHECK_EQ(children_of(child.pid()).size(), 0u);
}

TEST(twin_snapshots_are_of_one_moment) {
  for (const bool live : {false, true}) {
    if (live && !has_uffd()) {
      continue;
    }
    const InOrder target(500);
    for (int turn = 0; turn < 3; ++turn) {
      for (const CaptureMode mode : {CaptureMode::kVmsplice, CaptureMode::kRead}) {
        CHECK(take_snapshot(target, Consistency::kTwin, mode, live).by_twin);
        CHECK(!take_snapshot(target, Consistency::kCopy, mode, live).by_twin);
      }
      CHECK(!take_snapshot(target, Consistency::kAuto, CaptureMode::kAuto, live)
                 .consistency_reason.empty());
    }
  }
}

// As the kernel does when memory runs out.
TEST(twin_that_is_killed_while_it_is_read) {
  const TempDir dir("/tmp");
  const InOrder target(500);
  SessionOptions options = options_for(target.pid(), dir, CaptureMode::kRead);
  options.consistency = Consistency::kTwin;
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.prepare(RoundKind::kWhole, dir.path(), true), kNoErrors);
  const std::vector<pid_t> helpers = children_of(target.pid());
  // No slot is emptied until the twin is dead, and all of it is more than they hold.
  sys::set_faults({fails(SYS_splice, EINTR)});
  dump.start_capture();
  pid_t twin = 0;
  wait_until("there is a twin, and the target runs", [&] {
    for (const pid_t child : children_of(target.pid())) {
      const bool is_new = std::find(helpers.begin(), helpers.end(), child) == helpers.end();
      twin = is_new ? child : twin;
    }
    return twin != 0 && !dump.session.frozen();
  });
  ::kill(twin, SIGKILL);
  wait_until("it is dead", [&] { return read_stat(twin)->is_zombie(); });
  sys::set_faults({});
  const auto codes = dump.wait_capture();
  CHECK(std::find(codes.begin(), codes.end(), "SYSTEM") != codes.end());
  dump.detach();
  CHECK_EQ(dump.warnings, kNoErrors);
  CHECK_EQ(children_of(target.pid()).size(), 0u);
}

// Whatever keeps a twin from being made, the pages are copied under the same freeze.
TEST(twin_falls_back_to_copying) {
  const InOrder target(500);
  for (const int errnum : {EAGAIN, ENOMEM, EPERM}) {
    sys::Fault fault;
    fault.number = SYS_clone;
    fault.remote = true;
    fault.errnum = errnum;
    fault.skip = 2;  // the helpers
    sys::set_faults({fault});
    const RoundResult result =
        take_snapshot(target, Consistency::kTwin, CaptureMode::kVmsplice, false);
    CHECK(!result.by_twin);
    CHECK(result.consistency_reason.find("clone") != std::string::npos);
    CHECK_EQ(result.plan.warnings.size(), 1u);
  }
}

}  // namespace sluice::test
