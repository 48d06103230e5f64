#include "pipe/places.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// Mappings are cut at multiples of this: of one that is far larger than what is in it, as memory
// checkers and runtimes reserve them, only parts get a place. Files end at 16 TiB on ext4.
constexpr uint64_t kBlockBytes = uint64_t{64} << 30;
constexpr uint64_t kZeroBytes = uint64_t{1} << 20;

bool is_full(long result) { return result == -ENOSPC || result == -EDQUOT; }
bool is_not_known(long result) { return result == -EOPNOTSUPP || result == -ENOSYS; }

}  // namespace

Places::Places(const std::string& path, uint64_t first) : path_(path) {
  const long fd = sys::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
  if (fd < 0) {
    throw Error("OUTPUT_NOT_WRITABLE", 0, "openat", static_cast<int>(-fd), "cannot open " + path);
  }
  fd_.reset(static_cast<int>(fd));
  lengthen(first);
}

void Places::fail(const char* call, long result, const char* what) const {
  throw Error(is_full(result) ? "DISK_FULL" : "IO", 0, call, static_cast<int>(-result),
              path_ + ": " + what);
}

void Places::learn(PageRanges mappings) {
  // Apart, though they may touch: each is to have a place as a whole.
  std::sort(mappings.begin(), mappings.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  const std::lock_guard<std::mutex> lock(mutex_);
  mappings_ = std::move(mappings);
}

// The part of the mapping around it that has no place yet.
const Placed& Places::extent_at(uint64_t address) {
  const auto next = extents_.upper_bound(address);
  PageRange room{address / kBlockBytes * kBlockBytes, (address / kBlockBytes + 1) * kBlockBytes};
  if (next != extents_.begin()) {
    const Placed& before = std::prev(next)->second;
    if (before.range.end > address) {
      return before;
    }
    room.start = std::max(room.start, before.range.end);
  }
  if (next != extents_.end()) {
    room.end = std::min(room.end, next->first);
  }
  const auto after =
      std::upper_bound(mappings_.begin(), mappings_.end(), address,
                       [](uint64_t at, const PageRange& mapping) { return at < mapping.start; });
  const bool mapped = after != mappings_.begin() && std::prev(after)->end > address;
  const PageRange wanted = mapped ? *std::prev(after) : PageRange{address, address + kPageBytes};
  const Placed extent{intersect(wanted, room), end_};
  lengthen(end_ + extent.range.bytes());
  return extents_.emplace(extent.range.start, extent).first->second;
}

// Writing within the file's length spares the file system an update of it with every write.
void Places::lengthen(uint64_t end) {
  const long result = sys::call_restarting(SYS_ftruncate, fd_.get(), static_cast<long>(end));
  if (result < 0) {
    fail("ftruncate", result, "cannot be made as long as the memory is");
  }
  end_ = end;
}

Placed Places::place_of_start(PageRange pages) {
  const Placed& extent = extent_at(pages.start);
  return {{pages.start, std::min(pages.end, extent.range.end)},
          extent.offset + (pages.start - extent.range.start)};
}

void Places::expect(const PageRanges& pages) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (PageRange rest : subtracted(normalised(pages), reserved_)) {
    while (!rest.empty()) {
      const Placed part = place_of_start(rest);
      rest.start = part.range.end;
      const uint64_t bytes = part.range.bytes();
      if (can_reserve_) {
        const long result = sys::call_restarting(SYS_fallocate, fd_.get(), 0, part.offset, bytes);
        if (result < 0 && !is_not_known(result)) {
          fail("fallocate", result, "no space for the pages that the target has");
        }
        can_reserve_ = result >= 0;
        used_.push_back({part.offset, part.offset + bytes});
      }
    }
  }
  reserved_ = united(reserved_, normalised(pages));
}

std::vector<Placed> Places::find(PageRange pages) {
  std::vector<Placed> found;
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!pages.empty()) {
    found.push_back(place_of_start(pages));
    pages.start = found.back().range.end;
  }
  return found;
}

std::vector<Placed> Places::place(PageRange pages) {
  std::vector<Placed> placed = find(pages);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Placed& part : placed) {
    append_range(&used_, {part.offset, part.offset + part.range.bytes()});
  }
  return placed;
}

std::vector<Placed> Places::extents() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Placed> extents;
  extents.reserve(extents_.size());
  for (const auto& [start, extent] : extents_) {
    extents.push_back(extent);
  }
  return extents;
}

uint64_t Places::end() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return end_;
}

void Places::clear_all_but(PageRanges kept) {
  const std::lock_guard<std::mutex> lock(mutex_);
  used_ = normalised(std::move(used_));
  for (const PageRange& range : subtracted(used_, normalised(std::move(kept)))) {
    clear(range);
  }
}

void Places::clear(PageRange range) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const long punched =
      sys::call_restarting(SYS_fallocate, fd_.get(), kPunch, range.start, range.bytes());
  if (punched >= 0) {
    return;
  }
  if (!is_not_known(punched)) {
    fail("fallocate", punched, "pages that are gone cannot be removed");
  }
  const std::vector<char> zeros(std::min(kZeroBytes, range.bytes()));
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t bytes = std::min<uint64_t>(zeros.size(), range.end - at);
    const long written = sys::call_restarting(SYS_pwrite64, fd_.get(), zeros.data(), bytes, at);
    if (written <= 0) {
      fail("pwrite64", written, "pages that are gone cannot be written over");
    }
    at += static_cast<uint64_t>(written);
  }
}

}  // namespace sluice
