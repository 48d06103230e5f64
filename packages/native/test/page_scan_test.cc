// Both ways to scan, against a naive reading of pagemap page by page with the zero page known from
// /proc/kpageflags, on random layouts in a child.
#include "pages/page_scan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/swap.h>

#include <cstring>
#include <fstream>
#include <set>

#include "child.h"
#include "faults.h"
#include "kernel/abi.h"
#include "kernel/probes.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"
#include "target/target_memory.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint64_t kHugePages = 512;

enum class Way { kIoctl, kPagemap };

std::unique_ptr<PageScan> open_scan(pid_t pid, Way way) {
  if (way == Way::kPagemap) {
    sys::set_faults({fails(SYS_ioctl, ENOTTY)});
  }
  auto scan = PageScan::open(pid);
  sys::set_faults({});
  return scan;
}

using Pages = std::set<uint64_t>;  // addresses

Pages scanned(pid_t pid, Way way, PageRange range, PageFilter filter) {
  Pages pages;
  uint64_t before = range.start;
  open_scan(pid, way)->scan(range, filter, [&](PageRange run) {
    if (run.empty() || run.start < before || run.end > range.end) {
      throw Failure{__FILE__, __LINE__,
                    "run " + describe(std::vector<uint64_t>{run.start, run.end}) + " after " +
                        std::to_string(before) + " of " + std::to_string(range.end) + ", way " +
                        std::to_string(static_cast<int>(way))};
    }
    before = run.end;
    for (uint64_t at = run.start; at < run.end; at += kPageBytes) {
      pages.insert(at);
    }
    return true;
  });
  return pages;
}

uint64_t entry_of(int pagemap, uint64_t address) {
  uint64_t entry = 0;
  CHECK(::pread(pagemap, &entry, sizeof entry, static_cast<off_t>(address / kPageBytes * 8)) == 8);
  return entry;
}

Pages naive(pid_t pid, PageRange range, PageFilter filter) {
  const ScopedFd pagemap(::open(proc_path(pid, "pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  const ScopedFd flags(::open("/proc/kpageflags", O_RDONLY | O_CLOEXEC));
  if (!flags) {
    SKIP("/proc/kpageflags cannot be read without CAP_SYS_ADMIN");
  }
  Pages pages;
  for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
    const uint64_t entry = entry_of(pagemap.get(), at);
    const bool present = (entry & abi::kPagemapPresent) != 0;
    if (!present && (entry & abi::kPagemapSwapped) == 0) {
      continue;
    }
    if (filter == PageFilter::kOwn) {
      uint64_t page_flags = 0;
      const auto frame = entry & abi::kPagemapPfnMask;
      CHECK(!present || ::pread(flags.get(), &page_flags, 8, static_cast<off_t>(frame * 8)) == 8);
      constexpr uint64_t kZeroPage = uint64_t{1} << 24;  // KPF_ZERO_PAGE
      if ((entry & abi::kPagemapFile) != 0 || (page_flags & kZeroPage) != 0) {
        continue;
      }
    }
    pages.insert(at);
  }
  return pages;
}

void check_same(const Pages& got, const Pages& expected, const std::string& what) {
  if (got == expected) {
    return;
  }
  std::string text = what + ": " + std::to_string(got.size()) + " pages instead of " +
                     std::to_string(expected.size());
  for (const uint64_t page : expected) {
    if (!got.contains(page)) {
      text += ", the first one missing " + std::to_string(page);
      break;
    }
  }
  throw Failure{__FILE__, __LINE__, text};
}

void check_both(pid_t pid, PageRange range, const std::string& what) {
  for (const PageFilter filter : {PageFilter::kOwn, PageFilter::kPresent}) {
    const Pages expected = naive(pid, range, filter);
    CHECK(!expected.empty());
    const std::string name = what + (filter == PageFilter::kOwn ? ", own" : ", present");
    check_same(scanned(pid, Way::kIoctl, range, filter), expected, name + ", ioctl");
    check_same(scanned(pid, Way::kPagemap, range, filter), expected, name + ", pagemap");
  }
}

// Address space at the same place in parent and child.
class Reserved {
 public:
  explicit Reserved(uint64_t bytes) : bytes_(bytes) {
    memory_ = static_cast<char*>(
        ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    CHECK(memory_ != MAP_FAILED);
  }
  ~Reserved() { ::munmap(memory_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  char* at(uint64_t page) const { return memory_ + page * kPageBytes; }
  PageRange range() const {
    const auto start = reinterpret_cast<uint64_t>(memory_);
    return {start, start + bytes_};
  }

 private:
  uint64_t bytes_;
  char* memory_;
};

void map_over(char* at, uint64_t pages, int flags, int fd) {
  CHECK(::mmap(at, pages * kPageBytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE,
               fd, 0) == at);
}

// In the child: mappings of several kinds, each page of them treated at random.
void lay_out(const Reserved& reserved, uint64_t seed, const std::string& file) {
  Random random(seed);
  for (uint64_t page = 0; page < kPages;) {
    const uint64_t pages = std::min(kPages - page, 1 + below(random, 200));
    char* const start = reserved.at(page);
    page += pages;
    const uint64_t kind = below(random, 6);
    if (kind == 0) {
      continue;  // stays PROT_NONE
    }
    ScopedFd fd;
    if (kind == 1 || kind == 2) {
      fd.reset(::open(file.c_str(), O_RDWR | O_CLOEXEC));
    }
    map_over(start, pages,
             kind == 1   ? MAP_PRIVATE
             : kind == 2 ? MAP_SHARED
             : kind == 3 ? MAP_SHARED | MAP_ANONYMOUS
                         : MAP_PRIVATE | MAP_ANONYMOUS,
             fd ? fd.get() : -1);
    const uint64_t dense = 1 + below(random, 4);
    for (char* at = start; at < start + pages * kPageBytes; at += kPageBytes) {
      if (below(random, dense) != 0) {
        continue;
      }
      switch (below(random, 4)) {
        case 0:
          (void)*static_cast<volatile char*>(at);
          break;
        case 1:
          *static_cast<volatile char*>(at) = 1;
          ::madvise(at, kPageBytes, MADV_DONTNEED);
          break;
        default:
          *static_cast<volatile char*>(at) = 1;
      }
    }
  }
}

// Swap space on a file, for as long as the object lives.
class SwapFile {
 public:
  explicit SwapFile(const std::string& path) : path_(path) {
    constexpr uint32_t kSwapPages = 4096;
    std::string bytes(kSwapPages * kPageBytes, '\0');
    const uint32_t header[] = {1, kSwapPages - 1, 0};
    std::memcpy(bytes.data() + 1024, header, sizeof header);
    std::memcpy(bytes.data() + kPageBytes - 10, "SWAPSPACE2", 10);
    const ScopedFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    on_ = fd && ::write(fd.get(), bytes.data(), bytes.size()) == static_cast<long>(bytes.size()) &&
          ::fsync(fd.get()) == 0 && ::swapon(path.c_str(), 0) == 0;
  }
  ~SwapFile() {
    if (on_) {
      ::swapoff(path_.c_str());
    }
  }
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;
  bool on() const { return on_; }

 private:
  std::string path_;
  bool on_ = false;
};

bool swapped(pid_t pid, uint64_t address) {
  const ScopedFd pagemap(::open(proc_path(pid, "pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  return (entry_of(pagemap.get(), address) & abi::kPagemapSwapped) != 0;
}

}  // namespace

TEST(page_scan_random_layouts) {
  const TempDir dir("/tmp");
  const std::string file = dir.path() + "/file";
  std::ofstream(file) << std::string(200 * kPageBytes, 'f');
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Reserved reserved(kPages * kPageBytes);
    const Child child([&] { lay_out(reserved, seed, file); });
    check_both(child.pid(), reserved.range(), "seed " + std::to_string(seed));
    // Windows of any size, as a lane's share cuts them.
    Random random(seed);
    for (int i = 0; i < 8; ++i) {
      const uint64_t first = below(random, kPages);
      const PageRange window{
          reserved.range().start + first * kPageBytes,
          reserved.range().start + (first + below(random, kPages - first)) * kPageBytes};
      for (const Way way : {Way::kIoctl, Way::kPagemap}) {
        check_same(scanned(child.pid(), way, window, PageFilter::kOwn),
                   naive(child.pid(), window, PageFilter::kOwn),
                   "window of seed " + std::to_string(seed));
      }
    }
  }
}

TEST(page_scan_huge_pages) {
  const Reserved reserved(6 * kHugePages * kPageBytes);
  const uint64_t first =
      (kHugePages - reserved.range().start / kPageBytes % kHugePages) % kHugePages;
  const Child child([&] {
    char* const at = reserved.at(first);
    map_over(at, 4 * kHugePages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    ::madvise(at, 4 * kHugePages * kPageBytes, MADV_HUGEPAGE);
    at[0] = 1;
    at[2 * kHugePages * kPageBytes] = 1;
    // What is huge stays so, but nothing becomes huge while it is looked at.
    ::madvise(at, 4 * kHugePages * kPageBytes, MADV_NOHUGEPAGE);
    // In the middle of one, and a hole in another.
    ::mprotect(at + 5 * kPageBytes, kPageBytes, PROT_READ);
    ::madvise(at + (2 * kHugePages + 7) * kPageBytes, kPageBytes, MADV_DONTNEED);
  });
  check_both(child.pid(), reserved.range(), "huge pages");
}

TEST(page_scan_sparse_reservation) {
  const Reserved reserved(uint64_t{64} << 30);
  std::vector<uint64_t> touched;
  Random random(3);
  for (int i = 0; i < 50; ++i) {
    touched.push_back(below(random, reserved.range().pages()));
  }
  const Child child([&] {
    ::mprotect(reserved.at(0), reserved.range().bytes(), PROT_READ | PROT_WRITE);
    ::madvise(reserved.at(0), reserved.range().bytes(), MADV_NOHUGEPAGE);
    for (const uint64_t page : touched) {
      *reserved.at(page) = 1;
    }
  });
  Pages expected;
  for (const uint64_t page : touched) {
    expected.insert(reserved.range().start + page * kPageBytes);
  }
  for (const Way way : {Way::kIoctl, Way::kPagemap}) {
    check_same(scanned(child.pid(), way, reserved.range(), PageFilter::kOwn), expected, "sparse");
  }
}

TEST(page_scan_swapped_pages) {
  const TempDir dir("/tmp");
  const SwapFile swap(dir.path() + "/swap");
  if (!swap.on()) {
    SKIP("no swap space can be made here");
  }
  constexpr uint64_t kSwapped = 512;
  const Reserved reserved(kSwapped * 2 * kPageBytes);
  const Child child([&] {
    map_over(reserved.at(0), kSwapped, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    map_over(reserved.at(kSwapped), kSwapped, MAP_SHARED | MAP_ANONYMOUS, -1);
    std::memset(reserved.at(0), 0x5a, 2 * kSwapped * kPageBytes);
    ::madvise(reserved.at(0), 2 * kSwapped * kPageBytes, MADV_PAGEOUT);
  });
  uint64_t out = 0;
  for (uint64_t page = 0; page < kSwapped; ++page) {
    out += swapped(child.pid(), reserved.range().start + page * kPageBytes) ? 1 : 0;
  }
  if (out == 0) {
    SKIP("the kernel swaps nothing out on request");
  }
  check_both(child.pid(), reserved.range(), "swapped");
  // Every page of the private half is the child's own, wherever it is.
  const PageRange own{reserved.range().start, reserved.range().start + kSwapped * kPageBytes};
  CHECK_EQ(scanned(child.pid(), Way::kIoctl, own, PageFilter::kOwn).size(), kSwapped);
}

TEST(page_scan_stops_when_told) {
  const Reserved reserved(kPages * kPageBytes);
  const Child child([&] {
    map_over(reserved.at(0), kPages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    ::madvise(reserved.at(0), reserved.range().bytes(), MADV_NOHUGEPAGE);
    for (uint64_t page = 0; page < kPages; page += 2) {
      *reserved.at(page) = 1;
    }
  });
  for (const Way way : {Way::kIoctl, Way::kPagemap}) {
    int calls = 0;
    open_scan(child.pid(), way)->scan(reserved.range(), PageFilter::kOwn, [&](PageRange) {
      return ++calls < 5;
    });
    CHECK_EQ(calls, 5);
  }
}

TEST(page_scan_errors) {
  Child child([] {});
  const auto scan = open_scan(child.pid(), Way::kIoctl);
  const auto read = open_scan(child.pid(), Way::kPagemap);
  const auto failing = [](PageScan* any, long number, int errnum) {
    const Faults faults({fails(number, errnum)});
    std::string code = "none";
    try {
      any->scan({kPageBytes, 2 * kPageBytes}, PageFilter::kOwn, [](PageRange) { return true; });
    } catch (const Error& error) {
      code = error.code();
    }
    return code;
  };
  if (probe_pagemap_scan().ok) {
    CHECK_EQ(failing(scan.get(), SYS_ioctl, ESRCH), "TARGET_EXITED");
    CHECK_EQ(failing(scan.get(), SYS_ioctl, EIO), "SYSTEM");
  }
  CHECK_EQ(failing(read.get(), SYS_pread64, ESRCH), "TARGET_EXITED");
  CHECK_EQ(failing(read.get(), SYS_pread64, EIO), "SYSTEM");
  const pid_t pid = child.pid();
  child.end();
  CHECK_EQ(failing(read.get(), SYS_lseek, EIO), "TARGET_EXITED");  // it is really gone
  CHECK_THROWS("NO_SUCH_PROCESS", PageScan::open(pid));
}

}  // namespace sluice::test
