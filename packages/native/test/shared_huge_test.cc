// Shared huge pages that are in no page table of the target: they are in the image, or a restore
// leaves them alone.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <fstream>
#include <optional>

#include "child.h"
#include "faults.h"
#include "session_rig.h"
#include "tools.h"

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4
#endif

namespace sluice::test {
namespace {

constexpr uint64_t kHugeBytes = uint64_t{2} << 20;
constexpr uint64_t kHugePages = 6;
constexpr uint64_t kAllBytes = kHugePages * kHugeBytes;
constexpr uint64_t kHole = 5;
constexpr char kOvercommit[] = "/proc/sys/vm/nr_overcommit_hugepages";

// The machine gives huge pages while it lives, without keeping any in store.
class Pool {
 public:
  Pool() {
    std::ifstream(kOvercommit) >> before_;
    if (!(std::ofstream(kOvercommit) << before_ + 16 << std::flush)) {
      SKIP("no huge pages");
    }
  }
  ~Pool() { std::ofstream(kOvercommit) << before_; }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

 private:
  long before_ = 0;
};

// It maps an object twice, of which others have written the pages 0 to 3 and it has written page 4
// itself; the last one is a hole. In the second mapping, which is private, it has a page 0 of its
// own.
class Target {
 public:
  Target() : fd_(::memfd_create("sluice-huge", MFD_CLOEXEC | MFD_HUGETLB)) {
    if (!fd_ || ::ftruncate(fd_.get(), kAllBytes) != 0) {
      SKIP("no memfd of huge pages");
    }
    char* const ours = map(MAP_SHARED);
    for (uint64_t page = 0; page < 4; ++page) {
      ours[page * kHugeBytes + kPageBytes] = value_of(page);
    }
    ::munmap(ours, kAllBytes);
    child_.emplace(
        [&] {
          at_->shared = map(MAP_SHARED);
          at_->shared.load()[4 * kHugeBytes + kPageBytes] = value_of(4);
          at_->own = map(MAP_PRIVATE);
          at_->own.load()[kPageBytes] = 'x';
        },
        [&] {
          for (;;) {
            if (at_->touch) {
              for (uint64_t page = 0; page < 4; ++page) {
                (void)*static_cast<volatile char*>(at_->shared + page * kHugeBytes);
              }
              at_->touch = false;
            }
            ::usleep(1000);
          }
          return 0;
        });
  }

  static char value_of(uint64_t page) { return static_cast<char>('a' + page); }
  pid_t pid() const { return child_->pid(); }
  uint64_t shared() const { return reinterpret_cast<uint64_t>(at_->shared.load()); }
  uint64_t own() const { return reinterpret_cast<uint64_t>(at_->own.load()); }
  // It looks at what others wrote.
  void touch() {
    at_->touch = true;
    wait_until("the target has looked", [&] { return !at_->touch; });
  }
  // What the object has, by the first byte that is set in each of its pages.
  std::string contents() const {
    std::string text;
    for (uint64_t page = 0; page < kHugePages; ++page) {
      char byte = 0;
      CHECK_EQ(::pread(fd_.get(), &byte, 1, static_cast<off_t>(page * kHugeBytes + kPageBytes)), 1);
      text += byte == 0 ? '-' : byte;
    }
    return text;
  }
  uint64_t existing_pages() const {
    struct stat status{};
    CHECK(::fstat(fd_.get(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512 / kHugeBytes;
  }

 private:
  char* map(int sharing) const {
    void* at =
        ::mmap(nullptr, kAllBytes, PROT_READ | PROT_WRITE, sharing | MAP_NORESERVE, fd_.get(), 0);
    CHECK(at != MAP_FAILED);
    return static_cast<char*>(at);
  }
  struct At {
    std::atomic<char*> shared;
    std::atomic<char*> own;
    std::atomic<bool> touch;
  };
  ScopedFd fd_;
  Shared<At> at_;
  std::optional<Child> child_;
};

// The byte that an image has in each of the huge pages from `start` on; '-' for none.
std::string stored_at(const RoundResult& result, const TempDir& dir, uint64_t start) {
  std::string text;
  for (uint64_t page = 0; page < kHugePages; ++page) {
    const uint64_t at = start + page * kHugeBytes + kPageBytes;
    char byte = '-';
    for (const StoredRun& run : result.table.runs) {
      if (at >= run.address && at < run.address + uint64_t{run.pages} * kPageBytes) {
        std::ifstream file(dir.path() + "/shard-000" + std::to_string(run.shard) + ".img",
                           std::ios::binary);
        file.seekg(static_cast<std::streamoff>(run.offset + (at - run.address)));
        CHECK(file.get(byte).good());
      }
    }
    text += byte;
  }
  return text;
}

RoundResult result_of(Dump* dump) {
  CHECK_EQ(dump->prepare(), kNoErrors);
  dump->start_capture();
  CHECK_EQ(dump->wait_capture(), kNoErrors);
  CHECK(dump->seal().empty());
  return dump->session.finish_round(0);
}

void check_dump(CaptureMode mode) {
  const Pool pool;
  Target target;
  const TempDir dir("/tmp");
  SessionOptions options = options_for(target.pid(), dir, mode);
  options.budget_bytes = 4 << 20;
  Dump dump(options);
  CHECK_EQ(dump.attach(), kNoErrors);
  const RoundResult result = result_of(&dump);
  dump.detach();
  CHECK_EQ(result.plan.warnings, kNoErrors);
  CHECK_EQ(result.left_out.size(), 0);
  CHECK_EQ(stored_at(result, dir, target.shared()), "abcde-");
  CHECK_EQ(stored_at(result, dir, target.own()), "xbcde-");
  // Nothing was filled by being looked at.
  CHECK_EQ(target.existing_pages(), kHole);
  CHECK_EQ(target.contents(), "abcde-");
}

}  // namespace

TEST(shared_huge_pages_that_others_wrote_are_taken) {
  check_dump(CaptureMode::kVmsplice);
  check_dump(CaptureMode::kRead);
}

TEST(shared_huge_pages_that_are_not_known_are_left_alone) {
  const Pool pool;
  Target target;
  std::optional<RestoreOptions> options;
  {
    const TempDir dir("/tmp");
    Dump dump(options_for(target.pid(), dir, CaptureMode::kVmsplice));
    CHECK_EQ(dump.attach(), kNoErrors);
    const Faults faults({fails(SYS_fstat, EIO)});
    CHECK_EQ(dump.prepare(), kNoErrors);
    dump.start_capture();
    CHECK_EQ(dump.wait_capture(), kNoErrors);
    const RoundResult result = dump.session.finish_round(0);
    CHECK_EQ(stored_at(result, dir, target.shared()), "----e-");
    CHECK_EQ(result.plan.warnings.size(), 2);  // of each mapping
    CHECK(result.plan.warnings[0].find("/memfd:sluice-huge") != std::string::npos);
    // Neither those of the others nor the hole, of which nothing is known.
    std::vector<uint64_t> unknown;
    for (const LeftOut& left : result.left_out) {
      unknown.push_back((left.range.start - target.shared()) / kHugeBytes);
      unknown.push_back((left.range.end - target.shared()) / kHugeBytes);
    }
    CHECK_EQ(unknown, (std::vector<uint64_t>{0, 4, kHole, kHugePages}));
    options = options_of_restore(dump, result, target.pid());
  }
  target.touch();
  RestoreSession restore(*options);
  restore.attach();
  restore.check();
  restore.freeze();
  restore.apply();
  restore.thaw();
  restore.detach();
  CHECK_EQ(target.contents(), "abcde-");
}

}  // namespace sluice::test
