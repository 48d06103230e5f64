// What is behind a mapping: data against a naive list of written pages, files that are replaced,
// removed, or in memory only.
#include "pages/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "check.h"
#include "faults.h"
#include "kernel/syscalls.h"
#include "tools.h"

namespace sluice::test {
namespace {

// A mapping of this very process.
class Mapped {
 public:
  Mapped(const std::string& path, int flags = MAP_PRIVATE, uint64_t bytes = kPageBytes)
      : bytes_(bytes) {
    const ScopedFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    map(fd.get(), flags);
  }
  Mapped(int fd, int flags, uint64_t bytes) : bytes_(bytes) { map(fd, flags); }
  ~Mapped() { ::munmap(memory_, bytes_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  Mapping mapping() const {
    for (const Mapping& found : read_maps(::getpid())) {
      if (found.start == reinterpret_cast<uint64_t>(memory_)) {
        return found;
      }
    }
    throw Failure{__FILE__, __LINE__, "the mapping is not in the maps"};
  }

 private:
  void map(int fd, int flags) {
    memory_ = ::mmap(nullptr, bytes_, PROT_READ, flags, fd, 0);
    CHECK(memory_ != MAP_FAILED);
  }
  uint64_t bytes_;
  void* memory_ = nullptr;
};

ScopedFd make_memfd(uint64_t bytes) {
  ScopedFd fd(::memfd_create("sluice-test", MFD_CLOEXEC));
  CHECK(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  return fd;
}

MappedFile look(MappedFiles& files, const Mapped& mapped) {
  const auto& found = files.look_up(mapped.mapping(), Ask::kYes).file;
  CHECK(found.has_value());
  return *found;
}

}  // namespace

TEST(mapped_file_data_ranges) {
  constexpr uint64_t kPages = 300;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const ScopedFd fd = make_memfd(kPages * kPageBytes - below(random, 2) * 1000);
    std::set<uint64_t> written;
    for (uint64_t left = below(random, 60); left > 0; --left) {
      const uint64_t page = below(random, kPages);
      const uint64_t count = std::min(kPages - page, 1 + below(random, 12));
      for (uint64_t i = page; i < page + count; ++i) {
        if (below(random, 1 + seed % 4) == 0) {
          CHECK(::pwrite(fd.get(), "x", 1, static_cast<off_t>(i * kPageBytes)) == 1);
          written.insert(i);
        }
      }
      if (below(random, 3) == 0) {
        CHECK(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(page * kPageBytes),
                          static_cast<off_t>(kPageBytes)) == 0);
        written.erase(page);
      }
    }
    for (int window = 0; window < 10; ++window) {
      const uint64_t first = below(random, kPages + 20);
      const uint64_t end = first + below(random, kPages);
      const auto ranges = data_ranges(fd.get(), first * kPageBytes, (end - first) * kPageBytes);
      CHECK(ranges.has_value());
      std::set<uint64_t> got;
      uint64_t before = 0;
      for (const PageRange& range : *ranges) {
        CHECK(!range.empty() && range.start >= before && range.start % kPageBytes == 0);
        before = range.end;
        for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
          got.insert(at / kPageBytes);
        }
      }
      const std::set<uint64_t> expected(written.lower_bound(first), written.lower_bound(end));
      if (got != expected) {
        throw Failure{__FILE__, __LINE__,
                      "seed " + std::to_string(seed) + ": " + describe(got) + " is not " +
                          describe(expected)};
      }
    }
  }
}

TEST(mapped_file_data_ranges_that_cannot_be_told) {
  const ScopedFd fd = make_memfd(4 * kPageBytes);
  CHECK(::pwrite(fd.get(), "x", 1, 0) == 1);
  for (const int64_t skip : {0, 1}) {
    const Faults faults({fails(SYS_lseek, EINVAL, skip)});
    CHECK(!data_ranges(fd.get(), 0, 4 * kPageBytes).has_value());
  }
  CHECK_EQ(data_ranges(fd.get(), 0, 4 * kPageBytes)->size(), 1);
}

TEST(mapped_file_of_a_name) {
  const TempDir dir("/tmp");
  const std::string path = write_file(dir.path() + "/file", "0123456789");
  const Mapped mapped(path);
  MappedFiles files(::getpid());
  struct stat expected{};
  CHECK(::stat(path.c_str(), &expected) == 0);
  const MappedFile file = look(files, mapped);
  CHECK(file.reachable);
  CHECK(!file.memory_backed && !file.character_device && !file.huge_pages);
  CHECK_EQ(file.path, path);
  CHECK_EQ(file.device, expected.st_dev);
  CHECK_EQ(file.inode, expected.st_ino);
  CHECK_EQ(file.bytes, 10);
  CHECK_EQ(file.modified_ns, expected.st_mtim.tv_sec * 1'000'000'000 + expected.st_mtim.tv_nsec);
  CHECK_EQ(file.changed_ns, expected.st_ctim.tv_sec * 1'000'000'000 + expected.st_ctim.tv_nsec);
  // What it was is kept, so that a change while the dump runs shows to the reader.
  write_file(path, "longer than before");
  CHECK_EQ(look(files, mapped).bytes, 10);
}

TEST(mapped_file_removed_or_replaced) {
  const TempDir dir("/tmp");
  const std::string path = write_file(dir.path() + "/file", "old");
  const ScopedFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  const Mapped mapped(path);
  CHECK(::unlink(path.c_str()) == 0);
  MappedFiles files(::getpid());
  CHECK(!look(files, mapped).reachable);
  CHECK_EQ(look(files, mapped).bytes, 3);
  // Its size decides what is captured, so it is looked at anew.
  CHECK(::ftruncate(fd.get(), 5000) == 0);
  CHECK_EQ(look(files, mapped).bytes, 5000);
  write_file(path, "another file");
  const MappedFile file = look(files, mapped);
  CHECK(!file.reachable);
  CHECK_EQ(file.bytes, 5000);
  char text[3];
  const ScopedFd opened = files.open(mapped.mapping());
  CHECK(opened);
  CHECK(::pread(opened.get(), text, 3, 0) == 3);
  CHECK_EQ(std::string(text, 3), "old");
}

TEST(mapped_file_in_memory) {
  MappedFiles files(::getpid());
  const ScopedFd fd = make_memfd(3 * kPageBytes);
  const Mapped memfd(fd.get(), MAP_SHARED, 3 * kPageBytes);
  CHECK(look(files, memfd).memory_backed);
  CHECK(!look(files, memfd).reachable);
  CHECK_EQ(look(files, memfd).bytes, 3 * kPageBytes);
  const Mapped anonymous(-1, MAP_SHARED | MAP_ANONYMOUS, 2 * kPageBytes);
  CHECK(look(files, anonymous).memory_backed);
  const TempDir dir("/dev/shm");
  const std::string path = write_file(dir.path() + "/file", "text");
  const Mapped named(path);
  CHECK(look(files, named).memory_backed);
  CHECK(look(files, named).reachable);
  CHECK_EQ(look(files, named).bytes, 4);
  // One in memory may grow at any time.
  write_file(path, "more text");
  CHECK_EQ(look(files, named).bytes, 9);
}

// What is local may be looked at while nobody may be asked, and then it looks the same.
TEST(mapped_file_looked_up_without_asking) {
  const TempDir dir("/tmp");
  const TempDir memory("/dev/shm");
  const std::string path = write_file(dir.path() + "/file", "0123456789");
  const Mapped named(path);
  const Mapped removed(write_file(dir.path() + "/removed", "removed"));
  CHECK(::unlink((dir.path() + "/removed").c_str()) == 0);
  const Mapped replaced(write_file(dir.path() + "/replaced", "replaced"));
  CHECK(::rename(write_file(dir.path() + "/new", "new").c_str(),
                 (dir.path() + "/replaced").c_str()) == 0);
  const Mapped shared(write_file(memory.path() + "/file", "text"));
  const ScopedFd fd = make_memfd(3 * kPageBytes);
  const Mapped memfd(fd.get(), MAP_SHARED, 3 * kPageBytes);
  const Mapped zero("/dev/zero");
  const Mapped* const all[] = {&named, &removed, &replaced, &shared, &memfd, &zero};
  // Also where the kernel does not tell what it knows by itself.
  std::vector<std::pair<const Mapped*, int>> cases;
  for (const Mapped* mapped : all) {
    for (const int err : {0, EAGAIN, EINVAL, EPERM}) {
      cases.emplace_back(mapped, err);
    }
  }
  for (const auto& [mapped, err] : cases) {
    std::vector<sys::Fault> fault(err == 0 ? 0 : 1, fails(SYS_openat2, err));
    const Faults faults(std::move(fault));
    MappedFiles files(::getpid());
    files.learn();
    const LookUp found = files.look_up(mapped->mapping(), Ask::kNo);
    CHECK(!found.unasked && found.file.has_value());
    const MappedFile expected = look(files, *mapped);
    const std::string name = mapped->mapping().path + " ";
    CHECK_EQ(name + differing_file(*found.file, expected, true), name);
    CHECK_EQ(found.file->path, expected.path);
    CHECK_EQ(found.file->reachable, expected.reachable);
    CHECK_EQ(found.file->memory_backed, expected.memory_backed);
    CHECK_EQ(found.file->zero_device, expected.zero_device);
  }
}

TEST(mapped_file_of_a_device) {
  const Mapped mapped("/dev/zero");
  MappedFiles files(::getpid());
  const MappedFile file = look(files, mapped);
  CHECK(file.character_device && file.zero_device);
  CHECK(!file.memory_backed);
}

TEST(mapped_file_that_is_gone) {
  Mapping mapping;
  mapping.start = kPageBytes * 7;
  mapping.end = kPageBytes * 8;
  mapping.inode = 1;
  mapping.path = "/nowhere/at/all";
  MappedFiles files(::getpid());
  CHECK(!files.look_up(mapping, Ask::kYes).file);
  CHECK(!files.open(mapping));
  // By its name it is shared memory all the same.
  mapping.path = "/memfd:gone (deleted)";
  CHECK(files.look_up(mapping, Ask::kYes).file->memory_backed);
}

}  // namespace sluice::test
