// One suite over the three feeds: the bytes in the pipe are those of the target's memory, whatever
// the ranges, and what cannot be read is told.
#include "pipe/feed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "kernel/syscalls.h"
#include "rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 3000;
constexpr uint64_t kHole = 100;       // unmapped
constexpr uint64_t kProtected = 200;  // PROT_NONE
constexpr uint64_t kPipeBytes = uint64_t{8} << 20;

// A child with known bytes in kPages pages.
class Target {
 public:
  Target()
      : memory_(::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        child([this] {
          CHECK(memory_ != MAP_FAILED);
          auto* const bytes = static_cast<char*>(memory_);
          const std::string pattern = expected_pattern();
          std::copy(pattern.begin(), pattern.end(), bytes);
          ::munmap(bytes + kHole * kPageBytes, kPageBytes);
          ::mprotect(bytes + kProtected * kPageBytes, kPageBytes, PROT_NONE);
        }),
        expected(expected_pattern()) {}
  ~Target() {
    child.end();
    ::munmap(memory_, kPages * kPageBytes);
  }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  uint64_t at(uint64_t page) const {
    return reinterpret_cast<uint64_t>(memory_) + page * kPageBytes;
  }
  PageRange range(uint64_t page, uint64_t pages) const { return {at(page), at(page + pages)}; }

 private:
  static std::string expected_pattern() {
    Random random(17);
    std::string bytes(kPages * kPageBytes, '\0');
    for (size_t i = 0; i < bytes.size(); i += 64) {
      bytes[i] = static_cast<char>(random());
      bytes[i + 1] = static_cast<char>(random());
    }
    return bytes;
  }
  void* memory_;

 public:
  Child child;
  const std::string expected;
};

struct Bench {
  Target& target;
  const std::string& name;
  Feed& feed;
  Slot& slot;

  std::string bytes_of(const std::vector<PageRange>& ranges) const {
    std::string bytes;
    for (const PageRange& range : ranges) {
      bytes += target.expected.substr(range.start - target.at(0), range.bytes());
    }
    return bytes;
  }
  // What is in the pipe now; the slot is empty then.
  std::string drain() {
    std::string bytes(slot.bytes, '\0');
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t got = ::read(slot.read_end.get(), bytes.data() + done, bytes.size() - done);
      CHECK(got > 0);
      done += static_cast<size_t>(got);
    }
    slot.clear();
    return bytes;
  }
  // One call; what it moved is noted in the slot.
  long once(const std::vector<PageRange>& ranges, uint64_t skip) {
    const long moved = feed.feed(&slot, ranges, skip);
    slot.bytes += moved > 0 ? static_cast<uint64_t>(moved) : 0;
    CHECK(slot.bytes <= slot.capacity);
    return moved;
  }
  // All of it, however short each call comes.
  std::string all(const std::vector<PageRange>& ranges, uint64_t skip = 0) {
    uint64_t bytes = 0;
    for (const PageRange& range : ranges) {
      bytes += range.bytes();
    }
    while (skip < bytes) {
      const long moved = once(ranges, skip);
      if (moved <= 0) {
        throw Failure{__FILE__, __LINE__, name + " gave " + std::to_string(moved)};
      }
      skip += static_cast<uint64_t>(moved);
    }
    CHECK_EQ(skip, bytes);
    return drain();
  }
};

void set_up_pipe(Slot& slot) { slot.capacity = set_pipe_capacity(slot.read_end.get(), kPipeBytes); }

// Runs `body(bench)` for each feed, always in the tracer task, as lanes do.
template <typename Body>
void for_each_feed(Body body) {
  Target target;
  Rig rig(target.child.pid());
  std::vector<HelperRemains> remains;
  rig.task.run([&] {
    for (const std::string name : {"vmsplice", "read", "forced"}) {
      Slot slot;
      std::unique_ptr<Helper> helper;
      std::unique_ptr<Feed> feed;
      if (name == "vmsplice") {
        helper = rig.start_helper();
        HelperPipe pipe = helper->make_pipe();
        slot.read_end = std::move(pipe.read_end);
        slot.write_end = std::move(pipe.write_end);
        slot.helper_fd = pipe.helper_fd;
        feed = std::make_unique<VmspliceFeed>(helper.get());
      } else {
        int fds[2];
        CHECK(::pipe2(fds, O_CLOEXEC) == 0);
        slot.read_end.reset(fds[0]);
        slot.write_end.reset(fds[1]);
        if (name == "read") {
          feed = std::make_unique<ReadFeed>(target.child.pid());
        } else {
          feed = std::make_unique<ForcedFeed>(&rig.memory);
        }
      }
      set_up_pipe(slot);
      Bench bench{target, name, *feed, slot};
      try {
        body(bench);
      } catch (Failure& failure) {
        failure.what += ", feed " + name;
        throw;
      }
      sys::set_faults({});
      if (helper) {
        remains.push_back(helper->end());
      }
    }
  });
  const size_t left =
      rig.in_thread([&](RemoteThread& thread) { return remove_remains(&thread, remains).size(); });
  CHECK_EQ(left, 0);
}

// Ranges without the page that is not there and the one that is protected.
std::vector<PageRange> random_ranges(const Target& target, Random& random, uint64_t most_pages) {
  std::vector<PageRange> ranges;
  uint64_t total = 0;
  for (uint64_t page = kProtected + 1; total < most_pages;) {
    page += below(random, 4);
    const uint64_t pages = std::min(1 + below(random, 9), most_pages - total);
    if (page + pages > kPages) {
      break;
    }
    ranges.push_back(target.range(page, pages));
    page += pages;
    total += pages;
  }
  return ranges;
}

sys::Fault fault(long number, bool remote) {
  sys::Fault made;
  made.number = number;
  made.remote = remote;
  return made;
}

}  // namespace

TEST(feed_random_ranges) {
  for_each_feed([](Bench& bench) {
    Random random(5);
    for (int i = 0; i < 30; ++i) {
      const uint64_t most =
          1 + below(random, std::min(bench.slot.capacity / kPageBytes, uint64_t{200}));
      const auto ranges = random_ranges(bench.target, random, most);
      const std::string expected = bench.bytes_of(ranges);
      const uint64_t skip = kPageBytes * below(random, expected.size() / kPageBytes);
      CHECK(bench.all(ranges, skip) == expected.substr(skip));
    }
  });
}

TEST(feed_more_ranges_than_a_call_takes) {
  for_each_feed([](Bench& bench) {
    std::vector<PageRange> ranges;
    for (uint64_t page = kProtected + 1; page < kPages; page += 2) {
      ranges.push_back(bench.target.range(page, 1));
    }
    CHECK(ranges.size() > kMostIovecs);
    if (ranges.size() * kPageBytes > bench.slot.capacity) {
      ranges.resize(bench.slot.capacity / kPageBytes);
    }
    CHECK(bench.all(ranges) == bench.bytes_of(ranges));
  });
}

TEST(feed_short_results) {
  for_each_feed([](Bench& bench) {
    Random random(6);
    std::vector<sys::Fault> faults;
    for (const uint64_t cap : {kPageBytes, 3 * kPageBytes}) {
      for (const long number : {SYS_vmsplice, SYS_process_vm_readv, SYS_pread64}) {
        for (const bool remote : {false, true}) {
          faults.push_back(fault(number, remote));
          faults.back().cap_bytes = cap;
          faults.back().times = 5;
        }
      }
    }
    const auto ranges = random_ranges(bench.target, random, 60);
    sys::set_faults(faults);
    CHECK(bench.all(ranges) == bench.bytes_of(ranges));
  });
}

TEST(feed_errors_are_told) {
  for_each_feed([](Bench& bench) {
    for (const int errnum : {EAGAIN, ESRCH, ENOMEM}) {
      std::vector<sys::Fault> faults = {
          fault(SYS_vmsplice, true), fault(SYS_process_vm_readv, false), fault(SYS_pread64, false)};
      for (sys::Fault& made : faults) {
        made.errnum = errnum;
      }
      sys::set_faults(faults);
      CHECK_EQ(bench.once({bench.target.range(0, 4)}, 0), -errnum);
      sys::set_faults({});
    }
    CHECK(bench.all({bench.target.range(0, 4)}) == bench.bytes_of({bench.target.range(0, 4)}));
  });
}

TEST(feed_up_to_a_hole) {
  for_each_feed([](Bench& bench) {
    const std::vector<PageRange> ranges = {bench.target.range(kHole - 5, 10)};
    uint64_t done = 0;
    long moved = 0;
    while ((moved = bench.once(ranges, done)) > 0) {
      done += static_cast<uint64_t>(moved);
    }
    CHECK_EQ(moved, -EFAULT);
    CHECK_EQ(done, 5 * kPageBytes);
    CHECK(bench.drain() == bench.bytes_of({bench.target.range(kHole - 5, 5)}));
    // And behind it.
    CHECK_EQ(bench.once(ranges, 6 * kPageBytes), 4 * kPageBytes);
    CHECK(bench.drain() == bench.bytes_of({bench.target.range(kHole + 1, 4)}));
  });
}

TEST(feed_of_a_protected_page) {
  for_each_feed([](Bench& bench) {
    const std::vector<PageRange> ranges = {bench.target.range(kProtected, 1)};
    if (bench.name == "forced") {
      CHECK(bench.all(ranges) == bench.bytes_of(ranges));
    } else {
      CHECK_EQ(bench.once(ranges, 0), -EFAULT);
    }
  });
}

TEST(feed_into_a_full_pipe) {
  for_each_feed([](Bench& bench) {
    bench.slot.capacity = set_pipe_capacity(bench.slot.read_end.get(), 4 * kPageBytes);
    CHECK_EQ(bench.slot.capacity, 4 * kPageBytes);
    const std::vector<PageRange> ranges = {bench.target.range(0, 4)};
    CHECK_EQ(bench.once(ranges, 0), 4 * kPageBytes);
    // As if it held more: the feed says that it does not.
    bench.slot.capacity += kPageBytes;
    CHECK(bench.name != "vmsplice" || bench.once(ranges, 0) == -EAGAIN);
    CHECK(bench.drain() == bench.bytes_of(ranges));
  });
}

// Why the target must stand still until the slots are drained: the pipe of the vmsplice feed holds
// the target's pages, not copies. Where the kernel copies, and with the others, it does not matter.
TEST(feed_references_or_copies) {
  for_each_feed([](Bench& bench) {
    const auto write = [&](PageRange to, const std::string& bytes) {
      const iovec local{const_cast<char*>(bytes.data()), bytes.size()};
      const iovec remote{reinterpret_cast<void*>(to.start), to.bytes()};
      CHECK_EQ(::process_vm_writev(bench.target.child.pid(), &local, 1, &remote, 1, 0), kPageBytes);
    };
    const PageRange page = bench.target.range(50, 1);
    const std::string before = bench.bytes_of({page});
    const std::string after(kPageBytes, 'c');
    for (const bool copies : {false, true}) {
      if (copies) {
        sys::Fault made = fault(SYS_vmsplice, true);
        made.copy = true;
        sys::set_faults({made});
      }
      CHECK_EQ(bench.once({page}, 0), kPageBytes);
      write(page, after);
      const bool references = bench.name == "vmsplice" && !copies;
      CHECK(bench.drain() == (references ? after : before));
      write(page, before);
    }
    Random random(7);
    const auto ranges = random_ranges(bench.target, random, 100);
    CHECK(bench.all(ranges) == bench.bytes_of(ranges));
  });
}

}  // namespace sluice::test
