// Shards on real file systems: every byte and every run where they belong whatever splice(2) does,
// and the error codes of all that can fail.
#include "pipe/shard_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "check.h"
#include "faults.h"
#include "kernel/syscalls.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr const char* kDirs[] = {"/tmp", "/dev/shm"};
constexpr uint64_t kSlotBytes = 16 * kPageBytes;

uint32_t naive_crc32c(const std::string& bytes) {
  uint32_t sum = ~0u;
  for (const char byte : bytes) {
    sum ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0x82f63b78u : 0u);
    }
  }
  return ~sum;
}

std::vector<uint32_t> naive_pieces(const std::string& bytes, uint64_t piece) {
  std::vector<uint32_t> sums;
  for (uint64_t at = 0; at < bytes.size(); at += piece) {
    sums.push_back(naive_crc32c(bytes.substr(at, piece)));
  }
  return sums;
}

// A slot filled with random pages, and what its shard must come to hold.
class Source {
 public:
  explicit Source(uint64_t seed) : random_(seed) {
    int fds[2];
    CHECK(::pipe2(fds, O_CLOEXEC) == 0);
    slot.read_end.reset(fds[0]);
    slot.write_end.reset(fds[1]);
    CHECK(::fcntl(fds[0], F_SETPIPE_SZ, kSlotBytes) == static_cast<int>(kSlotBytes));
    slot.capacity = kSlotBytes;
  }

  void fill() {
    slot.clear();
    while (slot.bytes == 0 || (slot.room() > 0 && below(random_, 6) != 0)) {
      const uint64_t pages = 1 + below(random_, slot.room() / kPageBytes);
      next_ += below(random_, 3) == 0 ? kPageBytes * (1 + below(random_, 5)) : 0;
      const PageRange range{next_, next_ + pages * kPageBytes};
      next_ = range.end;
      slot.ranges.push_back(range);
      slot.bytes += range.bytes();
      for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
        CHECK(place_of.emplace(at, stored.size()).second);
        std::string page(kPageBytes, '\0');
        for (uint64_t i = 0; i < kPageBytes; i += 8) {
          const uint64_t word = random_();
          page.replace(i, 8, reinterpret_cast<const char*>(&word), 8);
        }
        CHECK(::write(slot.write_end.get(), page.data(), kPageBytes) == long{kPageBytes});
        stored += page;
      }
    }
  }

  Slot slot;
  std::string stored;
  std::map<uint64_t, uint64_t> place_of;  // of each page

 private:
  Random random_;
  uint64_t next_ = uint64_t{1} << 32;
};

void check_runs(const ShardFile& shard, const Source& source, uint32_t index) {
  std::map<uint64_t, uint64_t> places;
  for (size_t i = 0; i < shard.runs().size(); ++i) {
    const StoredRun& run = shard.runs()[i];
    CHECK_EQ(run.shard, index);
    for (uint64_t page = 0; page < run.pages; ++page) {
      places[run.address + page * kPageBytes] = run.offset + page * kPageBytes;
    }
    if (i > 0) {
      const StoredRun& before = shard.runs()[i - 1];
      CHECK_EQ(before.offset + before.pages * kPageBytes, run.offset);
      CHECK(before.address + before.pages * kPageBytes != run.address);
    }
  }
  CHECK(places == source.place_of);
}

bool takes_direct(const std::string& dir) {
  const std::string path = dir + "/probe";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  const bool takes = fd >= 0 && ::fcntl(fd, F_SETFL, O_DIRECT) == 0;
  ::close(fd);
  ::unlink(path.c_str());
  return takes;
}

// A cap of a part of a block makes the kernel refuse, which strict direct must report.
bool cuts_blocks(const std::vector<sys::Fault>& faults) {
  return std::any_of(faults.begin(), faults.end(), [](const sys::Fault& fault) {
    return fault.number == SYS_splice && fault.cap_bytes % kPageBytes != 0;
  });
}

// Several slots into a shard under `faults`; all must come out as if there were none.
void check_append(const char* base, IoMode mode, std::vector<sys::Fault> faults, uint64_t seed) {
  const TempDir dir(base);
  Source source(seed);
  const Faults scope(std::move(faults));
  ShardFile shard(dir.path(), 3, mode, seed % 2 == 0 ? 0 : 20 * kPageBytes);
  for (int i = 0; i < 6; ++i) {
    source.fill();
    shard.append(&source.slot);
    CHECK_EQ(shard.bytes(), source.stored.size());
  }
  shard.cut();
  shard.sync();
  CHECK_EQ(shard.name(), "shard-0003.img");
  CHECK(read_file(dir.path() + "/shard-0003.img") == source.stored);
  check_runs(shard, source, 3);
  CHECK_EQ(shard.checksum(3 * kPageBytes), naive_pieces(source.stored, 3 * kPageBytes));
}

template <typename Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code() + " " + error.call() + " " + std::to_string(error.err());
  }
  return "none";
}

std::string error_text(const char* code, const char* call, int errnum) {
  return std::string(code) + " " + call + " " + std::to_string(errnum);
}

}  // namespace

TEST(shard_append_whatever_splice_does) {
  const std::vector<std::vector<sys::Fault>> kKinds = {
      {},
      {caps(SYS_splice, kPageBytes)},
      {caps(SYS_splice, 3 * kPageBytes)},
      {caps(SYS_splice, 1000)},
      {caps(SYS_splice, 5000)},
      {fails(SYS_splice, EINTR, 0, 1), fails(SYS_splice, EINTR, 1, 3)},
      {fails(SYS_splice, EAGAIN, 1, 5)},
      {fails(SYS_splice, EINTR, 3, 2), caps(SYS_splice, 1000)},
      {fails(SYS_fallocate, EOPNOTSUPP)},
      {fails(SYS_fallocate, ENOSYS)},
      {fails(SYS_fallocate, EINTR, 0, 2)},
      {fails(SYS_fallocate, ENOSPC, 1)},
      {fails(SYS_ftruncate, EINTR, 0, 2), fails(SYS_fsync, EINTR, 0, 2)},
      {caps(SYS_pread64, kPageBytes)},
      {fails(SYS_pread64, EINTR, 0, 2)},
  };
  for (const char* base : kDirs) {
    for (const IoMode mode : {IoMode::kAuto, IoMode::kDirect, IoMode::kBuffered}) {
      const TempDir dir(base);
      if (mode == IoMode::kDirect && !takes_direct(dir.path())) {
        continue;
      }
      for (size_t kind = 0; kind < kKinds.size(); ++kind) {
        if (mode == IoMode::kDirect && cuts_blocks(kKinds[kind])) {
          continue;
        }
        for (uint64_t seed = 1; seed < 4; ++seed) {
          try {
            check_append(base, mode, kKinds[kind], seed);
          } catch (Failure& failure) {
            failure.what += std::string(", in ") + base + ", kind " + std::to_string(kind) +
                            ", seed " + std::to_string(seed) + ", mode " +
                            std::to_string(static_cast<int>(mode));
            throw;
          }
        }
      }
    }
  }
}

TEST(shard_goes_on_buffered_where_direct_writes_are_refused) {
  const TempDir dir("/tmp");
  if (!takes_direct(dir.path())) {
    SKIP("the file system does not take O_DIRECT");
  }
  Source source(5);
  ShardFile shard(dir.path(), 0, IoMode::kAuto, 0);
  CHECK(shard.direct());
  source.fill();
  shard.append(&source.slot);
  source.fill();
  {
    const Faults scope({fails(SYS_splice, EINVAL, 0, 1)});
    shard.append(&source.slot);
  }
  CHECK(!shard.direct());
  CHECK_EQ(shard.io_reason(), "the file system refused a write with O_DIRECT");
  source.fill();
  shard.append(&source.slot);
  shard.cut();
  CHECK(read_file(dir.path() + "/shard-0000.img") == source.stored);
  CHECK_EQ(shard.checksum(kPageBytes), naive_pieces(source.stored, kPageBytes));
}

TEST(shard_strict_direct) {
  const TempDir dir("/tmp");
  {
    const Faults scope({fails(SYS_fcntl, EINVAL)});
    CHECK_THROWS("DIRECT_IO_UNAVAILABLE", ShardFile(dir.path(), 0, IoMode::kDirect, 0));
    ShardFile shard(dir.path(), 1, IoMode::kAuto, 0);
    CHECK(!shard.direct());
    CHECK_EQ(shard.io_reason(), "the file system does not take O_DIRECT");
    Source source(6);
    source.fill();
    shard.append(&source.slot);
    CHECK(read_file(dir.path() + "/shard-0001.img").substr(0, source.stored.size()) ==
          source.stored);
  }
  if (!takes_direct(dir.path())) {
    SKIP("the file system does not take O_DIRECT");
  }
  Source source(7);
  source.fill();
  ShardFile shard(dir.path(), 2, IoMode::kDirect, 0);
  const Faults scope({fails(SYS_splice, EINVAL)});
  CHECK_THROWS("DIRECT_IO_UNAVAILABLE", shard.append(&source.slot));
}

TEST(shard_write_errors) {
  const TempDir dir("/tmp");
  size_t index = 0;
  const auto append = [&](std::vector<sys::Fault> faults, IoMode mode) {
    Source source(8);
    source.fill();
    ShardFile shard(dir.path(), index++, mode, 0);
    const Faults scope(std::move(faults));
    return error_of([&] { shard.append(&source.slot); });
  };
  const auto capped = caps(SYS_splice, 1000);
  for (const IoMode mode : {IoMode::kAuto, IoMode::kBuffered}) {
    CHECK_EQ(append({fails(SYS_splice, ENOSPC)}, mode), error_text("DISK_FULL", "splice", ENOSPC));
    CHECK_EQ(append({fails(SYS_splice, EDQUOT)}, mode), error_text("DISK_FULL", "splice", EDQUOT));
    CHECK_EQ(append({fails(SYS_splice, EIO)}, mode), error_text("IO", "splice", EIO));
    CHECK_EQ(append({fails(SYS_splice, EIO, 1), capped}, mode), "IO splice 5");
    CHECK_EQ(append({}, mode), "none");
  }
  CHECK_EQ(append({fails(SYS_splice, EINVAL)}, IoMode::kBuffered), "IO splice 22");
  // Less in the pipe than the slot says.
  Source source(9);
  source.fill();
  source.slot.bytes += kPageBytes;
  source.slot.ranges.back().end += kPageBytes;
  source.slot.write_end.reset();
  ShardFile shard(dir.path(), index++, IoMode::kBuffered, 0);
  CHECK_EQ(error_of([&] { shard.append(&source.slot); }), "IO splice 0");
}

TEST(shard_open_errors) {
  const TempDir dir("/tmp");
  const auto open = [&](std::vector<sys::Fault> faults, uint64_t preallocate) {
    static size_t index = 0;
    const Faults scope(std::move(faults));
    return error_of([&] { ShardFile(dir.path(), index++, IoMode::kAuto, preallocate); });
  };
  CHECK_EQ(open({fails(SYS_openat, ENOSPC)}, 0), error_text("DISK_FULL", "openat", ENOSPC));
  CHECK_EQ(open({fails(SYS_openat, EROFS)}, 0), error_text("OUTPUT_NOT_WRITABLE", "openat", EROFS));
  CHECK_EQ(open({fails(SYS_fallocate, ENOSPC)}, 8192),
           error_text("DISK_FULL", "fallocate", ENOSPC));
  CHECK_EQ(open({fails(SYS_fallocate, EDQUOT)}, 8192),
           error_text("DISK_FULL", "fallocate", EDQUOT));
  CHECK_EQ(open({fails(SYS_fallocate, EIO)}, 8192), error_text("IO", "fallocate", EIO));
  CHECK_EQ(open({fails(SYS_fallocate, ENOSPC)}, 0), "none");
  CHECK_EQ(open({fails(SYS_fallocate, EOPNOTSUPP)}, 8192), "none");
  CHECK_THROWS("OUTPUT_NOT_WRITABLE", ShardFile(dir.path() + "/none", 0, IoMode::kAuto, 0));
}

TEST(shard_does_not_touch_what_is_there) {
  const TempDir dir("/tmp");
  const std::string path = dir.path() + "/shard-0000.img";
  std::ofstream(path) << "precious";
  CHECK_THROWS("OUTPUT_NOT_WRITABLE", ShardFile(dir.path(), 0, IoMode::kAuto, kPageBytes));
  CHECK_EQ(read_file(path), "precious");
  CHECK(::symlink("elsewhere", (dir.path() + "/shard-0001.img").c_str()) == 0);
  CHECK_THROWS("OUTPUT_NOT_WRITABLE", ShardFile(dir.path(), 1, IoMode::kAuto, 0));
  CHECK(::access((dir.path() + "/elsewhere").c_str(), F_OK) != 0);
}

TEST(shard_is_private_reserved_and_cut) {
  const TempDir dir("/tmp");
  const mode_t mask = ::umask(0);
  ShardFile shard(dir.path(), 12, IoMode::kAuto, 100 * kPageBytes);
  ::umask(mask);
  struct stat found{};
  const std::string path = dir.path() + "/shard-0012.img";
  CHECK(::stat(path.c_str(), &found) == 0);
  CHECK_EQ(found.st_mode & 07777, 0600u);
  CHECK(found.st_blocks * 512 >= long{100 * kPageBytes});
  shard.cut();
  CHECK(::stat(path.c_str(), &found) == 0);
  CHECK_EQ(found.st_size, 0);
  CHECK(shard.checksum(kPageBytes).empty());
}

TEST(shard_seal_errors) {
  const TempDir dir("/tmp");
  Source source(10);
  source.fill();
  ShardFile shard(dir.path(), 0, IoMode::kBuffered, 0);
  shard.append(&source.slot);
  const auto under = [&](sys::Fault fault, auto body) {
    const Faults scope({fault});
    return error_of(body);
  };
  CHECK_EQ(under(fails(SYS_ftruncate, EIO), [&] { shard.cut(); }), "IO ftruncate 5");
  CHECK_EQ(under(fails(SYS_fsync, EIO), [&] { shard.sync(); }), "IO fsync 5");
  CHECK_EQ(under(fails(SYS_fsync, ENOSPC), [&] { shard.sync(); }), "DISK_FULL fsync 28");
  CHECK_EQ(under(fails(SYS_pread64, EIO), [&] { shard.checksum(kPageBytes); }), "IO pread64 5");
  CHECK_EQ(under(fails(SYS_openat, EACCES), [&] { shard.checksum(kPageBytes); }), "IO openat 13");
  shard.cut();
  // Shorter than what was stored.
  const std::string path = dir.path() + "/shard-0000.img";
  CHECK(::truncate(path.c_str(), 0) == 0);
  CHECK_EQ(error_of([&] { shard.checksum(kPageBytes); }), "IO pread64 0");
}

// More than is read at once, in pieces that do not divide that.
TEST(shard_checksum_of_a_large_file) {
  const TempDir dir("/tmp");
  const std::string path = dir.path() + "/file";
  std::string bytes(9'000'000 / kPageBytes * kPageBytes, '\0');
  Random random(11);
  for (size_t i = 0; i < bytes.size(); i += 97) {
    bytes[i] = static_cast<char>(random());
  }
  std::ofstream(path, std::ios::binary) << bytes;
  const bool direct = takes_direct(dir.path());
  for (const uint64_t piece : {uint64_t{1} << 20, 5 * kPageBytes, 1500 * kPageBytes}) {
    const auto expected = naive_pieces(bytes, piece);
    CHECK_EQ(checksum_file(path, bytes.size(), piece, false), expected);
    CHECK_EQ(checksum_file(path, bytes.size(), piece, direct), expected);
    const Faults scope({caps(SYS_pread64, 12345)});
    CHECK_EQ(checksum_file(path, bytes.size(), piece, false), expected);
  }
}

}  // namespace sluice::test
