// A whole dump in C++ with real threads: the image equals the memory of the target, and whatever
// ends a dump early leaves the target as it was.
#include "session/dump_session.h"

#include <fcntl.h>
#include <sys/mman.h>
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#endif

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>

#include "child.h"
#include "faults.h"
#include "kernel/probes.h"
#include "kernel/syscalls.h"
#include "session_rig.h"
#include "target/target_memory.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kLargeVma = uint64_t{4} << 20;
constexpr uint64_t kRedZoneBytes = 128;
constexpr uint64_t kRseqBytes = 32;

// Memory of many kinds, at random.
void fill_memory(uint64_t seed, const std::string& file) {
  Random random(seed);
  const auto map = [&](uint64_t pages, int flags, int fd) {
    auto* const at = static_cast<char*>(
        ::mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE, flags, fd, 0));
    CHECK(at != MAP_FAILED);
    for (uint64_t page = 0; page < pages; ++page) {
      if (below(random, 3) != 0) {
        const uint64_t word = random();
        std::memcpy(at + page * kPageBytes + below(random, kPageBytes - 8), &word, 8);
      }
    }
    return at;
  };
  for (int i = 0; i < 6; ++i) {
    char* const at = map(1 + below(random, 600), MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (i % 3 == 1) {
      ::mprotect(at, kPageBytes, PROT_NONE);
    }
  }
  map(100 + below(random, 100), MAP_SHARED | MAP_ANONYMOUS, -1);
  const ScopedFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  map(30, MAP_PRIVATE, fd.get());
  map(30, MAP_SHARED, fd.get());
  const ScopedFd memfd(::memfd_create("sluice-test", MFD_CLOEXEC));
  CHECK(::ftruncate(memfd.get(), 200 * kPageBytes) == 0);
  map(200, MAP_SHARED, memfd.get());
  map(150, MAP_SHARED, memfd.get());
  ::mmap(nullptr, uint64_t{64} << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
         0);
}

// A file, mapped: what is read of it stays out of the memory that later children inherit.
class MappedShard {
 public:
  explicit MappedShard(const std::string& path) {
    const ScopedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const off_t end = ::lseek(fd.get(), 0, SEEK_END);
    CHECK(end >= 0);
    bytes_ = static_cast<size_t>(end);
    if (bytes_ > 0) {
      memory_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
      CHECK(memory_ != MAP_FAILED);
    }
  }
  ~MappedShard() {
    if (bytes_ > 0) {
      ::munmap(memory_, bytes_);
    }
  }
  MappedShard(const MappedShard&) = delete;
  MappedShard& operator=(const MappedShard&) = delete;
  std::string_view view() const { return {static_cast<const char*>(memory_), bytes_}; }

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

// The bytes that an image has for a page, by the rules of docs/image-format.md; empty if it has
// none.
class Image {
 public:
  Image(const Dump& dump, const RoundResult& result, const std::string& dir) : result_(result) {
    for (const SealedShard& shard : dump.sealed) {
      shards_.push_back(std::make_unique<MappedShard>(dir + "/" + shard.file));
      CHECK_EQ(shards_.back()->view().size(), shard.bytes);
    }
    uint64_t before = 0;
    for (const StoredRun& run : result.table.runs) {
      CHECK(run.address >= before);
      before = run.address + uint64_t{run.pages} * kPageBytes;
    }
  }
  std::string_view page(const PlannedVma& vma, uint64_t at) {
    const auto& runs = result_.table.runs;
    const auto after =
        std::upper_bound(runs.begin(), runs.end(), at,
                         [](uint64_t value, const StoredRun& run) { return value < run.address; });
    if (after != runs.begin()) {
      const StoredRun& run = *std::prev(after);
      if (at - run.address < uint64_t{run.pages} * kPageBytes) {
        const uint64_t offset = run.offset + (at - run.address);
        const std::string_view shard = shards_.at(run.shard)->view();
        CHECK(offset + kPageBytes <= shard.size());
        return shard.substr(offset, kPageBytes);
      }
    }
    buffer_.assign(kPageBytes, '\0');
    for (const LeftOut& left : result_.left_out) {
      if (at >= left.range.start && at < left.range.end) {
        return "";
      }
    }
    if (vma.kind == VmaKind::kAnonymous || vma.kind == VmaKind::kSharedMemory) {
      return buffer_;
    }
    if (vma.kind == VmaKind::kPrivateFile || vma.kind == VmaKind::kSharedFile) {
      const ScopedFd fd(::open(vma.file->path.c_str(), O_RDONLY | O_CLOEXEC));
      const auto offset = vma.mapping.offset + (at - vma.mapping.start);
      const ssize_t got =
          ::pread(fd.get(), buffer_.data(), buffer_.size(), static_cast<off_t>(offset));
      return got > 0 ? buffer_ : std::string_view();
    }
    return {};
  }

 private:
  const RoundResult& result_;
  std::vector<std::unique_ptr<MappedShard>> shards_;
  std::string buffer_;
};

void check_image(const Dump& dump, const RoundResult& result, pid_t pid, const std::string& dir) {
  Image image(dump, result, dir);
  const TargetMemory memory(pid);
  // What changes when the thread makes the calls of detach: frames below its stack, whose place is
  // nobody's, and what the kernel notes for it (rseq(2)).
  const arch::Registers& registers = result.threads.at(0).registers;
  std::vector<PageRange> changing = {{0, registers.rsp - kRedZoneBytes}};
#if __has_include(<sys/rseq.h>)
  const uint64_t rseq = registers.fs_base + static_cast<uint64_t>(__rseq_offset);
  changing.push_back({rseq, rseq + kRseqBytes});
#endif
  uint64_t compared = 0;
  std::string actual(kPageBytes, '\0');
  std::string masked;
  for (const PlannedVma& vma : result.plan.vmas) {
    const PageRange range{vma.mapping.start, vma.mapping.end};
    if (vma.kind == VmaKind::kExcluded) {
      continue;
    }
    const auto compare = [&](uint64_t at) {
      if (!memory.read(RemotePtr(at), actual.data(), kPageBytes)) {
        return;
      }
      std::string_view expected = image.page(vma, at);
      CHECK(expected.empty() || expected.size() == kPageBytes);
      for (size_t i = 0; i < changing.size() && !expected.empty(); ++i) {
        const PageRange part = intersect({at, at + kPageBytes}, changing[i]);
        if (!part.empty() && (i > 0 || vma.mapping.path == "[stack]")) {
          masked = expected;
          masked.replace(part.start - at, part.bytes(), actual, part.start - at, part.bytes());
          expected = masked;
        }
      }
      if (expected != std::string_view(actual)) {
        throw Failure{__FILE__, __LINE__,
                      "page " + std::to_string(at) + " of " + vma_kind_name(vma.kind) + " " +
                          vma.mapping.path + (expected.empty() ? " is missing" : " differs")};
      }
      ++compared;
    };
    if (range.bytes() < kLargeVma) {
      for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
        compare(at);
      }
    } else {
      PageScan::open(pid)->scan(range, PageFilter::kPresent, [&](PageRange run) {
        for (uint64_t at = run.start; at < run.end; at += kPageBytes) {
          compare(at);
        }
        return true;
      });
    }
  }
  CHECK(compared > 500);
}

void check_whole_dump(CaptureMode mode, size_t lanes, size_t drains, uint64_t seed) {
  const TempDir dir("/tmp");
  const std::string file = dir.path() + "/file";
  std::ofstream(file) << std::string(30 * kPageBytes, 'f');
  const Child child([&] { fill_memory(seed, file); });
  CHECK(::kill(child.pid(), SIGSTOP) == 0);
  wait_until("it is stopped", [&] { return state_of(child.pid(), child.pid()) == 'T'; });
  const std::string before = snapshot(child.pid());
  SessionOptions options = options_for(child.pid(), dir, mode);
  options.lanes = lanes;
  options.drains = drains;
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.helpers.load(), mode == CaptureMode::kVmsplice ? lanes : 0);
  CHECK_EQ(dump.prepare(), kNoErrors);
  dump.start_capture();
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  const RoundResult result = dump.session.finish_round(0);
  CHECK_EQ(dump.seal(), kNoErrors);
  dump.detach();
  CHECK_EQ(dump.warnings, kNoErrors);
  check_image(dump, result, child.pid(), dir.path());
  CHECK_EQ(snapshot(child.pid()), before);
  CHECK_EQ(state_of(child.pid(), child.pid()), 'T');
  CHECK_EQ(dump.session.pages_captured(), result.table.stored_pages);
  CHECK_EQ(dump.session.bytes_drained(), result.table.stored_pages * kPageBytes);
  CHECK(result.pinned_peak_bytes > 0 && result.pinned_peak_bytes <= options.budget_bytes);
  CHECK(result.table.aliased_pages > 0);
}

struct Counter {
  std::atomic<uint64_t> count;
};

// A child that counts, and what it had before a dump.
class Counting {
 public:
  Counting()
      : child_([] { fill_anonymous(); },
               [this]() -> int {
                 for (;;) {
                   ++counter_->count;
                   const timespec pause{0, 100'000};
                   ::nanosleep(&pause, nullptr);
                 }
               }) {
    wait_until("the child counts", [&] { return counter_->count > 0; });
    before_ = snapshot(child_.pid());
  }
  pid_t pid() const { return child_.pid(); }
  void check_unharmed() {
    CHECK_EQ(snapshot(pid()), before_);
    const uint64_t now = counter_->count;
    wait_until("the child counts on", [&] { return counter_->count > now + 2; });
  }

 private:
  static void fill_anonymous() {
    constexpr uint64_t kBytes = 4000 * kPageBytes;
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    std::memset(at, 0x3c, kBytes);
  }
  Shared<Counter> counter_;
  Child child_;
  std::string before_;
};

constexpr CaptureMode kModes[] = {CaptureMode::kVmsplice, CaptureMode::kRead};

size_t count(const std::vector<std::string>& codes, const char* code) {
  return static_cast<size_t>(std::count(codes.begin(), codes.end(), code));
}

}  // namespace

TEST(dump_session_image_equals_memory) {
  uint64_t seed = 100;
  for (const CaptureMode mode : kModes) {
    for (size_t lanes = 1; lanes <= 3; ++lanes) {
      for (size_t drains = 1; drains <= 2; ++drains) {
        try {
          check_whole_dump(mode, lanes, drains, ++seed);
        } catch (Failure& failure) {
          failure.what += ", seed " + std::to_string(seed) + ", lanes " + std::to_string(lanes) +
                          ", drains " + std::to_string(drains);
          throw;
        }
      }
    }
  }
}

TEST(dump_session_cancelled_anywhere) {
  Counting target;
  Random random(7);
  for (int i = 0; i < 24; ++i) {
    const TempDir dir("/tmp");
    SessionOptions options = options_for(target.pid(), dir, kModes[i % 2]);
    options.lanes = 1 + below(random, 3);
    options.drains = 1 + below(random, 2);
    Dump dump(options);
    CHECK_EQ(dump.attach(), kNoErrors);
    CHECK_EQ(dump.prepare(), kNoErrors);
    // Drains stand still from some slot on, so that the dump cannot be over before it is cancelled.
    sys::set_faults({fails(SYS_splice, EAGAIN, static_cast<int64_t>(below(random, 60)))});
    const uint64_t pages = below(random, 60);
    if (pages == 0) {
      dump.session.cancel();
    }
    dump.start_capture();
    wait_until("so much is captured",
               [&] { return pages == 0 || dump.session.pages_captured() >= pages; });
    dump.session.cancel();
    sys::set_faults({});
    const auto codes = dump.wait_capture();
    CHECK(!codes.empty());
    CHECK_EQ(count(codes, "CANCELLED"), codes.size());
    CHECK(!dump.session.frozen());
    dump.detach();
    CHECK_EQ(dump.warnings, kNoErrors);
    target.check_unharmed();
  }
}

TEST(dump_session_disk_full_in_the_middle) {
  Counting target;
  for (const CaptureMode mode : kModes) {
    const TempDir dir("/tmp");
    SessionOptions options = options_for(target.pid(), dir, mode);
    options.lanes = 2;
    Dump dump(options);
    CHECK_EQ(dump.attach(), kNoErrors);
    CHECK_EQ(dump.prepare(), kNoErrors);
    sys::set_faults({fails(SYS_splice, ENOSPC, 10)});
    dump.start_capture();
    const auto codes = dump.wait_capture();
    sys::set_faults({});
    CHECK_EQ(count(codes, "DISK_FULL"), 1);
    CHECK_EQ(count(codes, "CANCELLED"), codes.size() - 1);
    dump.detach();
    CHECK_EQ(dump.warnings, kNoErrors);
    target.check_unharmed();
  }
}

TEST(dump_session_disk_full_before_the_freeze) {
  Counting target;
  const TempDir dir("/tmp");
  Dump dump(options_for(target.pid(), dir, CaptureMode::kVmsplice));
  CHECK_EQ(dump.attach(), kNoErrors);
  sys::set_faults({fails(SYS_fallocate, ENOSPC)});
  CHECK_EQ(dump.prepare(), std::vector<std::string>{"DISK_FULL"});
  sys::set_faults({});
  dump.detach();
  target.check_unharmed();
}

TEST(dump_session_falls_back_to_reading) {
  Counting target;
  const TempDir dir("/tmp");
  sys::set_faults({fails(SYS_pidfd_getfd, EPERM)});
  {
    Dump dump(options_for(target.pid(), dir, CaptureMode::kVmsplice));
    CHECK_EQ(dump.attach(), std::vector<std::string>{"CAPTURE_UNAVAILABLE"});
  }
  target.check_unharmed();
  sys::set_faults({fails(SYS_pidfd_getfd, EPERM)});
  Dump dump(options_for(target.pid(), dir, CaptureMode::kAuto));
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.helpers.load(), 0);
  sys::set_faults({});
  CHECK_EQ(dump.prepare(), kNoErrors);
  dump.start_capture();
  CHECK_EQ(dump.wait_capture(), kNoErrors);
  dump.detach();
  target.check_unharmed();
}

// The lanes wait for slots when it happens. A helper keeps the memory there, so that with it the
// dump may be whole all the same; without one it must fail.
TEST(dump_session_target_killed_while_it_is_read) {
  const AdoptsOrphans adopts;
  for (const CaptureMode mode : kModes) {
    Counting target;
    const TempDir dir("/tmp");
    SessionOptions options = options_for(target.pid(), dir, mode);
    options.lanes = 2;
    Dump dump(options);
    CHECK_EQ(dump.attach(), kNoErrors);
    CHECK_EQ(dump.prepare(), kNoErrors);
    sys::set_faults({fails(SYS_splice, EAGAIN)});
    dump.start_capture();
    wait_until("pages are captured", [&] { return dump.session.pages_captured() > 0; });
    ::kill(target.pid(), SIGKILL);
    wait_until("it is dead", [&] { return state_of(target.pid(), target.pid()) == 'Z'; });
    sys::set_faults({});
    const auto codes = dump.wait_capture();
    CHECK_EQ(count(codes, "TARGET_EXITED") + count(codes, "CANCELLED"), codes.size());
    if (mode == CaptureMode::kRead || !codes.empty()) {
      CHECK(count(codes, "TARGET_EXITED") >= 1);
    } else {
      uint64_t pages = 0;
      for (const SurveyItem& item : dump.survey) {
        pages += item.pages;
      }
      // The survey saw the helpers' scratches too. The kernel may have added pages since then.
      const uint64_t stored = dump.session.finish_round(0).table.stored_pages;
      CHECK(stored + options.lanes * kScratchBytes / kPageBytes >= pages);
    }
    dump.detach();
    CHECK_EQ(dump.warnings, kNoErrors);
  }
}

// An address space that is gone looks like one without pages. Here the lane that would notice,
// since it reads without a scan, has done its part before.
TEST(dump_session_target_killed_before_it_is_scanned) {
  if (!probe_pagemap_scan().ok) {
    SKIP("no PAGEMAP_SCAN, which is what the other lanes are held in");
  }
  Counting target;
  const TempDir dir("/tmp");
  SessionOptions options = options_for(target.pid(), dir, CaptureMode::kRead);
  options.lanes = 3;
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  CHECK_EQ(dump.prepare(), kNoErrors);
  PageRange vdso;
  for (const Mapping& mapping : read_maps(target.pid())) {
    if (mapping.path == "[vdso]") {
      vdso = {mapping.start, mapping.end};
    }
  }
  CHECK(!vdso.empty());
  dump.session.set_cuts(0, {vdso.start, vdso.end});
  sys::set_faults({fails(SYS_ioctl, EINTR)});  // the other lanes scan again and again
  dump.start_capture();
  wait_until("the vDSO is drained", [&] { return dump.session.bytes_drained() == vdso.bytes(); });
  ::kill(target.pid(), SIGKILL);
  wait_until("it is dead", [&] { return state_of(target.pid(), target.pid()) == 'Z'; });
  sys::set_faults({});
  const auto codes = dump.wait_capture();
  CHECK(count(codes, "TARGET_EXITED") >= 1);
  CHECK_EQ(count(codes, "TARGET_EXITED") + count(codes, "CANCELLED"), codes.size());
  dump.detach();
}

TEST(dump_session_refuses_what_is_not_there) {
  const TempDir dir("/tmp");
  Child child([] {});
  const SessionOptions options = options_for(child.pid(), dir, CaptureMode::kRead);
  Dump dump(options);
  child.end();
  CHECK(count(dump.attach(), "NO_SUCH_PROCESS") >= 1);
  CHECK_THROWS("NO_SUCH_PROCESS", DumpSession(options));
}

TEST(dump_session_cuts) {
  const TempDir dir("/tmp");
  const Child child([] {});
  SessionOptions options = options_for(child.pid(), dir, CaptureMode::kRead);
  options.lanes = 3;
  DumpSession session(options);
  std::vector<SurveyItem> items;
  const size_t round = session.control_prepare(RoundKind::kFinal, &items);
  session.set_cuts(round, {kPageBytes, 2 * kPageBytes});
  session.set_cuts(round, {kPageBytes, kPageBytes});
  CHECK_THROWS("OPTION", session.set_cuts(round, {kPageBytes}));
  CHECK_THROWS("OPTION", session.set_cuts(round, {2 * kPageBytes, kPageBytes}));
  CHECK_THROWS("OPTION", session.set_cuts(round, {1, kPageBytes}));
}

}  // namespace sluice::test
