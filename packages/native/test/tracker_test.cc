// One suite over all trackers: a model of rounds. What was collected is copied into a map like a
// dump would copy it; in the end the map and the look together must give the memory of the target,
// byte for byte, whatever it did meanwhile.
#include "track/tracker.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "child.h"
#include "kernel/probes.h"
#include "rig.h"
#include "target/freeze.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 1536;  // three page tables
constexpr uint64_t kHuge = 512;

struct Control {
  std::atomic<uint64_t> asked;
  std::atomic<uint64_t> done;
  std::atomic<bool> race;  // write all the time
  std::atomic<int> order;  // what to do, instead of something random
};

enum Order { kAnything, kFillHugePages, kDropHugePages, kKeepPages };

char* reserve() {
  void* memory = ::mmap(nullptr, (kPages + kHuge) * kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  const auto at = reinterpret_cast<uint64_t>(memory);
  const uint64_t huge = kHuge * kPageBytes;
  return reinterpret_cast<char*>((at + huge - 1) / huge * huge);
}

// One random thing that can happen to the memory of a process.
void step(Random& random, char* memory) {
  const uint64_t page = below(random, kPages);
  const uint64_t pages = 1 + below(random, below(random, 4) == 0 ? kPages - page : 20);
  char* const at = memory + page * kPageBytes;
  const uint64_t bytes = std::min(pages, kPages - page) * kPageBytes;
  switch (below(random, 12)) {
    case 0:
      ::madvise(at, bytes, MADV_DONTNEED);
      break;
    case 1:
      ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      break;
    case 2:
      ::mprotect(at, bytes, PROT_NONE);
      ::mprotect(at, bytes, PROT_READ | PROT_WRITE);
      break;
    case 3:
      ::madvise(memory + page / kHuge * kHuge * kPageBytes, kHuge * kPageBytes,
                below(random, 2) == 0 ? MADV_HUGEPAGE : 25 /* MADV_COLLAPSE */);
      break;
    default:
      for (uint64_t i = below(random, 40); i > 0; --i) {
        const uint64_t word = random();
        std::memcpy(memory + below(random, kPages * kPageBytes - 8), &word, 8);
      }
  }
}

// A process that does steps when it is told to, or all the time.
class Target {
 public:
  explicit Target(uint64_t seed)
      : memory_(reserve()), child_([] {}, [this, seed] { return live(seed); }) {}
  pid_t pid() const { return child_.pid(); }
  PageRange range() const {
    const auto start = reinterpret_cast<uint64_t>(memory_);
    return {start, start + kPages * kPageBytes};
  }
  void steps(uint64_t count) {
    control_->asked += count;
    wait();
  }
  void obey(Order order) {
    control_->order = order;
    steps(1);
    control_->order = kAnything;
  }
  void race(bool on) {
    control_->race = on;
    if (!on) {
      steps(1);
    }
  }

 private:
  void wait() {
    wait_until("the target has done its steps",
               [this] { return control_->done >= control_->asked; });
  }
  int live(uint64_t seed) {
    Random random(seed);
    for (;;) {
      if (control_->done < control_->asked) {
        if (control_->order == kFillHugePages) {
          ::madvise(memory_, kPages * kPageBytes, MADV_HUGEPAGE);
          std::fill(memory_, memory_ + kPages * kPageBytes, 'h');
        } else if (control_->order == kDropHugePages) {
          ::madvise(memory_, kPages * kPageBytes, MADV_DONTNEED);
        } else if (control_->order == kKeepPages) {
          // Or the kernel makes small pages huge when it likes, which counts as writing.
          ::madvise(memory_, kPages * kPageBytes, MADV_NOHUGEPAGE);
        } else {
          step(random, memory_);
        }
        ++control_->done;
      } else if (control_->race) {
        step(random, memory_);
      } else {
        ::usleep(50);
      }
    }
  }

  char* memory_;
  Shared<Control> control_;
  Child child_;
};

std::vector<Mapping> mappings_of(pid_t pid, PageRange range) {
  std::vector<Mapping> found;
  for (const Mapping& mapping : read_maps(pid)) {
    if (!intersect({mapping.start, mapping.end}, range).empty()) {
      found.push_back(mapping);
    }
  }
  return found;
}

// A model of a session: what a chain would hold.
class Model {
 public:
  Model(Rig& rig, Tracker* tracker, PageRange range)
      : rig_(rig), memory_(rig.memory), tracker_(tracker), scan_(tracker->scan()), range_(range) {}

  void round() {
    const auto watched = tracker_->watch(mappings_of(memory_.pid(), range_));
    if (tracker_->resets_at_once()) {
      rig_.task.run([&] {
        const Freeze freeze(memory_.pid(), rig_.task.pid(), {far_off()});
        tracker_->reset();
      });
    }
    for (const Mapping& mapping : watched) {
      const PageRange part = intersect({mapping.start, mapping.end}, range_);
      PageRanges again = intersected({part}, owed_);
      for (const PageRange& fresh : subtracted({part}, owed_)) {
        collect(fresh, Wanted::kWritten);
      }
      for (const PageRange& owed : again) {
        owed_ = subtracted(owed_, {owed});
        collect(owed, Wanted::kAll);
      }
    }
  }

  // The target stands still. Returns the pages that had to be taken.
  uint64_t compare() {
    std::map<uint64_t, std::string> image;
    uint64_t taken = 0;
    const auto take = [&](PageRange pages) {
      for (uint64_t at = pages.start; at < pages.end; at += kPageBytes) {
        image[at] = page(at).value();
        ++taken;
      }
    };
    for (const Mapping& mapping : mappings_of(memory_.pid(), range_)) {
      const PageRange part = intersect({mapping.start, mapping.end}, range_);
      for (const PageRange& fresh : subtracted({part}, owed_)) {
        Look look;
        if (!scan_->look(fresh, PageFilter::kAnonymous, &look)) {
          take_own(fresh, take);
          continue;
        }
        std::for_each(look.written.begin(), look.written.end(), take);
        const PageRanges gone = subtracted(normalised(look.changed), normalised(look.kept));
        for (const auto& [at, bytes] : chain_) {
          const PageRange one{at, at + kPageBytes};
          if (!intersect(one, fresh).empty() && intersected({one}, gone).empty()) {
            image[at] = bytes;
          }
        }
      }
      for (const PageRange& owed : intersected({part}, owed_)) {
        take_own(owed, take);
      }
    }
    const std::string zeros(kPageBytes, '\0');
    for (uint64_t at = range_.start; at < range_.end; at += kPageBytes) {
      const auto is = page(at);
      const auto kept = image.find(at);
      const std::string& stored = kept == image.end() ? zeros : kept->second;
      if (is && *is != stored) {
        throw Failure{__FILE__, __LINE__,
                      "page " + std::to_string((at - range_.start) / kPageBytes) +
                          (kept == image.end() ? " is missing" : " differs")};
      }
    }
    return taken;
  }

 private:
  template <typename Take>
  void take_own(PageRange range, Take take) {
    PageScan::open(memory_.pid())->scan(range, PageFilter::kAnonymous, [&](PageRange run) {
      take(run);
      return true;
    });
  }

  void collect(PageRange range, Wanted wanted) {
    PageRanges collected;
    const uint64_t end = scan_->collect(range, PageFilter::kAnonymous, wanted,
                                        [&](PageRange run) { collected.push_back(run); });
    if (end < range.end) {
      owed_ = united(owed_, {{end, range.end}});
    }
    for (const PageRange& run : collected) {
      for (uint64_t at = run.start; at < run.end; at += kPageBytes) {
        const auto bytes = page(at);
        if (bytes) {
          chain_[at] = *bytes;
        } else {
          owed_ = united(owed_, {{at, at + kPageBytes}});
        }
      }
    }
  }

  std::optional<std::string> page(uint64_t at) const {
    std::string bytes(kPageBytes, '\0');
    return memory_.read(RemotePtr(at), bytes.data(), bytes.size()) ? std::optional(bytes)
                                                                   : std::nullopt;
  }

  Rig& rig_;
  const TargetMemory& memory_;
  Tracker* tracker_;
  std::unique_ptr<TrackerScan> scan_;
  PageRange range_;
  std::map<uint64_t, std::string> chain_;
  PageRanges owed_;
};

// Calls body(target, tracker) with each tracker that there is, for some seeds.
template <typename Body>
void for_each_tracker(uint64_t seeds, Body body) {
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const TrackerMode mode : trackers_here()) {
      Target target(seed);
      Rig rig(target.pid());
      std::unique_ptr<Helper> helper;
      std::unique_ptr<Tracker> tracker;
      if (mode == TrackerMode::kNone) {
        tracker = make_full_tracker(target.pid());
      } else if (mode == TrackerMode::kSoftDirty) {
        tracker = make_soft_dirty_tracker(target.pid(), {});
      } else {
        rig.task.run([&] {
          helper = rig.start_helper();
          tracker = make_uffd_tracker(target.pid(), helper->make_userfaultfd());
        });
      }
      CHECK(tracker->mode() == mode);
      try {
        body(&target, rig, tracker.get());
      } catch (const Failure& failure) {
        throw Failure{failure.file, failure.line,
                      failure.what + " (tracker " + std::to_string(static_cast<int>(mode)) +
                          ", seed " + std::to_string(seed) + ")"};
      }
      tracker->unwatch();
      tracker.reset();
      rig.task.run([&] { helper.reset(); });
    }
  }
}

}  // namespace

TEST(tracker_rounds_give_the_memory) {
  for_each_tracker(12, [](Target* target, Rig& rig, Tracker* tracker) {
    Model model(rig, tracker, target->range());
    for (int round = 0; round < 5; ++round) {
      target->steps(30);
      model.round();
    }
    target->steps(20);
    model.compare();
  });
}

TEST(tracker_rounds_race_with_the_target) {
  for_each_tracker(12, [](Target* target, Rig& rig, Tracker* tracker) {
    Model model(rig, tracker, target->range());
    target->race(true);
    for (int round = 0; round < 5; ++round) {
      model.round();
    }
    target->race(false);
    model.compare();
  });
}

// A huge page that is dropped leaves no page table behind in which something could be written.
TEST(tracker_notices_what_was_dropped) {
  for_each_tracker(1, [](Target* target, Rig& rig, Tracker* tracker) {
    Model model(rig, tracker, target->range());
    target->obey(kFillHugePages);
    model.round();
    target->obey(kDropHugePages);
    CHECK_EQ(model.compare(), uint64_t{0});
  });
}

TEST(tracker_takes_only_what_was_written) {
  for_each_tracker(1, [](Target* target, Rig& rig, Tracker* tracker) {
    Model model(rig, tracker, target->range());
    target->steps(200);
    target->obey(kKeepPages);
    model.round();
    const uint64_t taken = model.compare();
    CHECK(tracker->mode() == TrackerMode::kNone ? taken > 0 : taken == 0);
  });
}

TEST(tracker_leaves_no_trace) {
  for_each_tracker(1, [](Target* target, Rig& rig, Tracker* tracker) {
    target->steps(50);
    const auto flags = [&] { return proc_text(target->pid(), "smaps"); };
    const std::string maps = proc_text(target->pid(), "maps");
    Model(rig, tracker, target->range()).round();
    tracker->unwatch();
    CHECK_EQ(proc_text(target->pid(), "maps"), maps);
    CHECK(flags().find(" uw") == std::string::npos);
  });
}

TEST(tracker_does_not_fill_what_is_empty) {
  if (!probe_uffd_wp_async().ok) {
    SKIP("no asynchronous write protection");
  }
  const uint64_t bytes = uint64_t{1} << 40;
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  const Child child([&] { *static_cast<volatile char*>(memory) = 1; });
  ::munmap(memory, bytes);
  const auto start = reinterpret_cast<uint64_t>(memory);
  Rig rig(child.pid());
  std::unique_ptr<Helper> helper;
  // Then it maps nothing any more, on its way there.
  wait_until("it rests", [&] { return state_of(child.pid(), child.pid()) == 'S'; });
  rig.task.run([&] { helper = rig.start_helper(); });
  const std::string tables = status_line(child.pid(), "VmPTE");
  auto tracker =
      rig.task.run([&] { return make_uffd_tracker(child.pid(), helper->make_userfaultfd()); });
  uint64_t pages = 0;
  for (const Mapping& mapping : tracker->watch(mappings_of(child.pid(), {start, start + bytes}))) {
    tracker->scan()->collect({mapping.start, mapping.end}, PageFilter::kAnonymous, Wanted::kWritten,
                             [&](PageRange run) { pages += run.pages(); });
  }
  CHECK_EQ(pages, uint64_t{1});
  CHECK_EQ(status_line(child.pid(), "VmPTE"), tables);
  rig.task.run([&] { helper.reset(); });
}

// An image that others took when they reset the bits is built upon; what it lacks is not.
TEST(tracker_builds_on_what_is_known) {
  if (!probe_soft_dirty().ok) {
    SKIP("no soft-dirty bits");
  }
  Target target(1);
  target.steps(50);
  target.obey(kKeepPages);
  const PageRange all = target.range();
  const PageRange half{all.start, all.start + all.bytes() / 2 / kPageBytes * kPageBytes};
  Rig rig(target.pid());
  {
    const auto other = make_soft_dirty_tracker(target.pid(), {});
    other->watch(mappings_of(target.pid(), all));
    CHECK(pages_of(other->reset()) > 0);
  }
  PageRanges exist;
  PageScan::open(target.pid())->scan(all, PageFilter::kAnonymous, [&](PageRange run) {
    append_range(&exist, run);
    return true;
  });
  const auto tracker = make_soft_dirty_tracker(target.pid(), {half});
  tracker->watch(mappings_of(target.pid(), all));
  const PageRanges found = intersected(tracker->reset(), {all});
  CHECK_EQ(pages_of(found), pages_of(subtracted(exist, {half})));
  CHECK(pages_of(found) > 0);
}

TEST(tracker_tells_where_it_does_not_watch) {
  if (!probe_uffd_wp_async().ok) {
    SKIP("no asynchronous write protection");
  }
  Target target(1);
  target.steps(50);
  Rig rig(target.pid());
  std::unique_ptr<Helper> helper;
  rig.task.run([&] { helper = rig.start_helper(); });
  const auto tracker =
      rig.task.run([&] { return make_uffd_tracker(target.pid(), helper->make_userfaultfd()); });
  const auto scan = tracker->scan();
  const PageRange first = intersect(
      {mappings_of(target.pid(), target.range()).front().start, kAddressSpaceEnd}, target.range());
  Look look;
  const auto ignore = [](PageRange) {};
  CHECK(!scan->look({first.start, first.start + kPageBytes}, PageFilter::kAnonymous, &look));
  CHECK(look.changed.empty());
  CHECK(!scan->count({first.start, first.start + kPageBytes}, PageFilter::kAnonymous, ignore));
  CHECK_EQ(scan->collect({first.start, first.start + kPageBytes}, PageFilter::kAnonymous,
                         Wanted::kWritten, ignore),
           first.start);
  rig.task.run([&] { helper.reset(); });
}

}  // namespace sluice::test
