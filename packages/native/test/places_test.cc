// Places of pages in a file: they stay, they do not overlap, and what shards write to them in
// several rounds comes out as the newest bytes, whatever the system calls do.
#include "pipe/places.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "check.h"
#include "faults.h"
#include "kernel/syscalls.h"
#include "pipe/shard_file.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr uint64_t kFirst = 3 * kPageBytes;
constexpr uint64_t kSlotPages = 64;
constexpr uint64_t kBase = uint64_t{1} << 40;

PageRange pages(uint64_t from, uint64_t count) {
  return {kBase + from * kPageBytes, kBase + (from + count) * kPageBytes};
}

std::string make_file(const TempDir& dir) {
  const std::string path = dir.path() + "/pages";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  ::close(fd);
  return path;
}

// Mappings that do not overlap, of some 200 pages together; often one right behind the other.
PageRanges random_mappings(Random* random) {
  PageRanges mappings;
  for (uint64_t at = below(*random, 20); at < 300;) {
    const uint64_t count = 1 + below(*random, 60);
    mappings.push_back(pages(at, count));
    at += count + (below(*random, 2) == 0 ? 0 : below(*random, 30));
  }
  return mappings;
}

PageRange random_part(Random* random, const PageRange& of) {
  const uint64_t from = below(*random, of.pages());
  const uint64_t count = 1 + below(*random, of.pages() - from);
  const uint64_t start = of.start + from * kPageBytes;
  return {start, start + count * kPageBytes};
}

// What a file with places must hold.
class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed) {
    int fds[2];
    CHECK(::pipe2(fds, O_CLOEXEC) == 0);
    slot.read_end.reset(fds[0]);
    slot.write_end.reset(fds[1]);
    const int bytes = static_cast<int>(kSlotPages * kPageBytes);
    CHECK(::fcntl(fds[0], F_SETPIPE_SZ, bytes) == bytes);
    slot.capacity = kSlotPages * kPageBytes;
  }

  // Pages of these mappings, ascending, each at most once.
  void fill(const PageRanges& mappings) {
    slot.clear();
    slot.copied = below(random_, 2) == 0;
    for (const PageRange& mapping : mappings) {
      if (below(random_, 3) == 0) {
        continue;
      }
      PageRange part = random_part(&random_, mapping);
      part.end = std::min(part.end, part.start + slot.room());
      if (part.empty()) {
        return;
      }
      append_range(&slot.ranges, part);
      for (uint64_t at = part.start; at < part.end; at += kPageBytes) {
        std::string page(kPageBytes, static_cast<char>('a' + below(random_, 26)));
        const uint64_t word = random_();
        page.replace(8 * below(random_, kPageBytes / 8), 8, reinterpret_cast<const char*>(&word),
                     8);
        put(page);
        newest[at] = page;
      }
    }
  }

  Slot slot;
  std::map<uint64_t, std::string> newest;

 private:
  void put(const std::string& page) {
    if (slot.copied) {
      page.copy(slot.buffer.get(slot.capacity) + slot.bytes, kPageBytes);
    } else {
      CHECK(::write(slot.write_end.get(), page.data(), kPageBytes) == long{kPageBytes});
    }
    slot.bytes += kPageBytes;
  }

  Random random_;
};

// Where each page is, by the runs that shards noted.
void note_places(const ShardFile& shard, std::map<uint64_t, uint64_t>* place_of) {
  for (const StoredRun& run : shard.runs()) {
    CHECK_EQ(run.shard, 0u);
    for (uint64_t at = 0; at < run.pages * kPageBytes; at += kPageBytes) {
      const auto [known, is_new] = place_of->emplace(run.address + at, run.offset + at);
      CHECK_EQ(known->second, run.offset + at);
    }
  }
}

void check_rounds(const char* base, IoMode mode, std::vector<sys::Fault> faults, uint64_t seed) {
  const TempDir dir(base);
  const std::string path = make_file(dir);
  Random random(seed);
  Model model(seed);
  const Faults scope(std::move(faults));
  Places places(path, kFirst);
  std::map<uint64_t, uint64_t> place_of;
  for (int round = 0; round < 4; ++round) {
    const PageRanges mappings = random_mappings(&random);
    places.learn(mappings);
    if (round == 0) {
      places.expect({random_part(&random, mappings.front()), mappings.back()});
    }
    ShardFile one(&places, mode);
    ShardFile other(&places, mode);
    for (int slots = 0; slots < 4; ++slots) {
      model.fill(mappings);
      (below(random, 2) == 0 ? one : other).append(&model.slot);
    }
    one.cut();
    note_places(one, &place_of);
    note_places(other, &place_of);
  }
  PageRanges kept;
  for (auto page = model.newest.begin(); page != model.newest.end();) {
    const uint64_t place = place_of.at(page->first);
    if (below(random, 3) == 0) {
      page = model.newest.erase(page);
    } else {
      kept.push_back({place, place + kPageBytes});
      ++page;
    }
  }
  places.clear_all_but(kept);
  std::string expected(places.end(), '\0');
  for (const auto& [address, page] : model.newest) {
    expected.replace(place_of.at(address), kPageBytes, page);
  }
  CHECK(read_file(path) == expected);
}

std::string error_of(const std::string& path, void (*body)(const std::string&)) {
  try {
    body(path);
  } catch (const Error& error) {
    CHECK(error.detail().find(path) != std::string::npos);
    return error.code() + " " + error.call() + " " + std::to_string(error.err());
  }
  return "none";
}

}  // namespace

TEST(places_stay_and_do_not_overlap) {
  const TempDir dir;
  for (uint64_t seed = 1; seed < 200; ++seed) {
    const std::string path = make_file(dir);
    Random random(seed);
    Places places(path, kFirst);
    std::map<uint64_t, uint64_t> known;
    for (int round = 0; round < 4; ++round) {
      const PageRanges mappings = random_mappings(&random);
      places.learn(mappings);
      for (int i = 0; i < 20; ++i) {
        PageRange asked = random_part(&random, mappings[below(random, mappings.size())]);
        for (const Placed& part :
             below(random, 2) == 0 ? places.place(asked) : places.find(asked)) {
          CHECK_EQ(part.range.start, asked.start);
          asked.start = part.range.end;
          CHECK(part.offset >= kFirst && part.offset + part.range.bytes() <= places.end());
          for (uint64_t at = 0; at < part.range.bytes(); at += kPageBytes) {
            const auto [page, is_new] = known.emplace(part.range.start + at, part.offset + at);
            CHECK_EQ(page->second, part.offset + at);
          }
        }
        CHECK(asked.empty());
      }
    }
    std::vector<uint64_t> offsets;
    for (const auto& [address, offset] : known) {
      offsets.push_back(offset);
    }
    std::sort(offsets.begin(), offsets.end());
    CHECK(std::adjacent_find(offsets.begin(), offsets.end()) == offsets.end());
    uint64_t last = 0;
    for (const Placed& extent : places.extents()) {
      CHECK(extent.range.start >= last && !extent.range.empty());
      last = extent.range.end;
    }
    struct stat status{};
    CHECK(::stat(path.c_str(), &status) == 0);
    CHECK_EQ(static_cast<uint64_t>(status.st_size), places.end());
    ::unlink(path.c_str());
  }
}

TEST(places_of_a_mapping_are_together) {
  const TempDir dir;
  Places places(make_file(dir), kFirst);
  places.learn({pages(0, 10), pages(10, 5)});
  CHECK_EQ(places.place(pages(7, 1)).front().offset, kFirst + 7 * kPageBytes);
  CHECK_EQ(places.place(pages(12, 1)).front().offset, kFirst + 12 * kPageBytes);
  CHECK_EQ(places.place(pages(0, 15)).size(), 2u);
  // It grew: what is new is elsewhere, and what was there stays.
  places.learn({pages(0, 30)});
  const std::vector<Placed> grown = places.place(pages(0, 30));
  CHECK_EQ(grown.size(), 3u);
  CHECK_EQ(grown.back().offset, kFirst + 15 * kPageBytes);
  CHECK_EQ(grown.back().range.pages(), 15u);
}

TEST(places_of_huge_mappings_are_parts_of_them) {
  const TempDir dir;
  Places places(make_file(dir), kFirst);
  const uint64_t tebi = uint64_t{1} << 40;
  places.learn({{kBase, kBase + 60 * tebi}});
  places.place({kBase + 20 * tebi, kBase + 20 * tebi + kPageBytes});
  CHECK(places.end() < tebi);
}

TEST(places_get_the_newest_bytes_whatever_calls_do) {
  const std::vector<std::vector<sys::Fault>> kKinds = {
      {},
      {caps(SYS_splice, kPageBytes)},
      {caps(SYS_splice, 1000)},
      {fails(SYS_splice, EINTR, 0, 1), fails(SYS_splice, EINTR, 1, 3)},
      {fails(SYS_splice, EAGAIN, 1, 5)},
      {caps(SYS_vmsplice, 5000)},
      {fails(SYS_fallocate, EOPNOTSUPP)},
      {fails(SYS_fallocate, ENOSYS), caps(SYS_pwrite64, 1000)},
      {fails(SYS_fallocate, EINTR, 0, 2), fails(SYS_ftruncate, EINTR, 0, 2)},
      {fails(SYS_fallocate, EOPNOTSUPP), fails(SYS_pwrite64, EINTR, 0, 2)},
  };
  for (const char* base : {"/tmp", "/dev/shm"}) {
    for (const IoMode mode : {IoMode::kAuto, IoMode::kBuffered}) {
      for (size_t kind = 0; kind < kKinds.size(); ++kind) {
        for (uint64_t seed = 1; seed < 6; ++seed) {
          try {
            check_rounds(base, mode, kKinds[kind], seed);
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

TEST(places_tell_what_failed) {
  const TempDir dir;
  CHECK_EQ(error_of(dir.path() + "/none", [](const std::string& path) { Places(path, kFirst); }),
           "OUTPUT_NOT_WRITABLE openat 2");
  const std::string path = make_file(dir);
  const auto expecting = [](const std::string& at) { Places(at, kFirst).expect({pages(0, 4)}); };
  const auto clearing = [](const std::string& at) {
    Places places(at, kFirst);
    places.place(pages(0, 4));
    places.clear_all_but({});
  };
  {
    const Faults scope({fails(SYS_fallocate, ENOSPC)});
    CHECK_EQ(error_of(path, expecting), "DISK_FULL fallocate 28");
    CHECK_EQ(error_of(path, clearing), "DISK_FULL fallocate 28");
  }
  {
    const Faults scope({fails(SYS_ftruncate, EFBIG, 1)});
    CHECK_EQ(error_of(path, expecting), "IO ftruncate 27");
  }
  {
    const Faults scope({fails(SYS_fallocate, EOPNOTSUPP), fails(SYS_pwrite64, EIO)});
    CHECK_EQ(error_of(path, clearing), "IO pwrite64 5");
  }
}

}  // namespace sluice::test
