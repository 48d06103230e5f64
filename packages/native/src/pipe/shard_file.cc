#include "pipe/shard_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "kernel/crc32c.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr uint64_t kReserveStep = uint64_t{64} << 20;
constexpr uint64_t kReadBytes = uint64_t{4} << 20;
// Of single pages at their places, one after the other, the disk takes far fewer than the page
// cache.
constexpr uint64_t kLeastDirectBytes = uint64_t{64} << 10;
constexpr uint32_t kMostPagesPerRun = 0xffffffff;

bool is_full(long result) { return result == -ENOSPC || result == -EDQUOT; }

}  // namespace

ShardFile::ShardFile(const std::string& dir, size_t index, IoMode mode, uint64_t preallocate,
                     bool moving)
    : index_(static_cast<uint32_t>(index)), mode_(mode) {
  char name[32];
  snprintf(name, sizeof name, "shard-%04zu.img", index);
  name_ = name;
  path_ = dir + "/" + name_;
  open(O_CREAT | O_EXCL);
  choose_io(moving);
  if (preallocate > 0) {
    const long result = reserve(preallocate);
    if (result < 0) {
      fail("fallocate", result, "no space for the pages that the target has");
    }
  }
}

ShardFile::ShardFile(Places* places, IoMode mode, bool moving)
    : places_(places),
      path_(places->path()),
      name_(path_.substr(path_.rfind('/') + 1)),
      index_(0),
      mode_(mode) {
  open(0);
  choose_io(moving);
}

void ShardFile::open(int flags) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, path_.c_str(), flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    const bool full = is_full(fd);
    throw Error(full ? "DISK_FULL" : "OUTPUT_NOT_WRITABLE", 0, "openat", static_cast<int>(-fd),
                "cannot create " + path_);
  }
  fd_.reset(static_cast<int>(fd));
}

void ShardFile::choose_io(bool moving) {
  if (mode_ == IoMode::kAuto && moving) {
    io_reason_ = "the file system reads twice what it writes, and a live page may change meanwhile";
  } else if (mode_ != IoMode::kBuffered) {
    const long result = sys::call(SYS_fcntl, fd_.get(), F_SETFL, O_DIRECT);
    if (result < 0 && mode_ == IoMode::kDirect) {
      fail("fcntl", result, "the file system does not take O_DIRECT");
    }
    direct_ = direct_now_ = result >= 0;
    if (!direct_) {
      io_reason_ = "the file system does not take O_DIRECT";
    }
  }
}

void ShardFile::fail(const char* call, long result, const char* what) const {
  const char* code = is_full(result)                                 ? "DISK_FULL"
                     : result == -EINVAL && mode_ == IoMode::kDirect ? "DIRECT_IO_UNAVAILABLE"
                                                                     : "IO";
  throw Error(code, 0, call, static_cast<int>(-result), path_ + ": " + what);
}

// Space is taken before it is needed: a full disk shows before the freeze, and writing within the
// file's length spares the file system an update of it with every write.
// Returns a negative errno if there is no space for that.
long ShardFile::reserve(uint64_t end) {
  if (end <= reserved_ || !can_reserve_) {
    return 0;
  }
  const long result = sys::call_restarting(SYS_fallocate, fd_.get(), 0, reserved_, end - reserved_);
  if (result < 0) {
    can_reserve_ = false;
    return result == -EOPNOTSUPP || result == -ENOSYS ? 0 : result;
  }
  reserved_ = end;
  return 0;
}

void ShardFile::set_direct(bool on) {
  if (on != direct_now_ && sys::call(SYS_fcntl, fd_.get(), F_SETFL, on ? O_DIRECT : 0) >= 0) {
    direct_now_ = on;
  }
}

void ShardFile::append(Slot* slot) {
  if (places_ == nullptr && bytes_ + slot->bytes > reserved_) {
    // It may fit all the same.
    reserve(bytes_ + slot->bytes + kReserveStep);
  }
  const std::vector<Placed> pieces = place(*slot);
  uint64_t in_pipe = slot->copied ? 0 : slot->bytes;
  uint64_t in_slot = 0;
  for (size_t i = 0; i < pieces.size();) {
    // What is adjacent in the file goes there at once.
    Placed whole = pieces[i];
    for (note_run(pieces[i++]); i < pieces.size(); note_run(pieces[i++])) {
      if (pieces[i].offset != whole.offset + whole.range.bytes()) {
        break;
      }
      whole.range.end += pieces[i].range.bytes();
    }
    move(slot, in_slot, whole, &in_pipe);
    in_slot += whole.range.bytes();
  }
  bytes_ += slot->bytes;
}

std::vector<Placed> ShardFile::place(const Slot& slot) {
  std::vector<Placed> pieces;
  uint64_t end = bytes_;
  for (const PageRange& range : slot.ranges) {
    if (places_ != nullptr) {
      const std::vector<Placed> placed = places_->place(range);
      pieces.insert(pieces.end(), placed.begin(), placed.end());
    } else {
      pieces.push_back({range, end});
      end += range.bytes();
    }
  }
  return pieces;
}

// Bytes of the slot from `in_slot` on; only the length of the range counts. The first `in_pipe`
// bytes of the slot are in the pipe, or have been.
void ShardFile::move(Slot* slot, uint64_t in_slot, Placed to, uint64_t* in_pipe) {
  const bool worth = places_ == nullptr || to.range.bytes() >= kLeastDirectBytes;
  const uint64_t end = in_slot + to.range.bytes();
  auto offset = static_cast<loff_t>(to.offset);
  for (uint64_t at = in_slot; at < end;) {
    if (*in_pipe < end) {
      const long pushed = slot->push(*in_pipe, slot->bytes - *in_pipe);
      // Nothing comes out of a pipe into which nothing went.
      const bool empty = *in_pipe == at;
      if (pushed < 0 && (pushed != -EAGAIN || empty)) {
        fail("vmsplice", pushed, "copied pages could not be put into a pipe");
      }
      *in_pipe += static_cast<uint64_t>(std::max(pushed, 0L));
    }
    // After a short splice the next piece starts in the middle of a block, which O_DIRECT refuses.
    const bool aligned =
        offset % static_cast<loff_t>(kPageBytes) == 0 && (end - at) % kPageBytes == 0;
    set_direct(direct_ && worth && aligned);
    const long moved = sys::call(SYS_splice, slot->read_end.get(), nullptr, fd_.get(), &offset,
                                 end - at, SPLICE_F_MOVE);
    if (moved > 0) {
      at += static_cast<uint64_t>(moved);
    } else if (moved == -EINTR) {
      continue;
    } else if (moved == -EAGAIN) {
      pollfd ready{slot->read_end.get(), POLLIN, 0};
      poll(&ready, 1, 1);
    } else if (moved == -EINVAL && direct_now_ && mode_ == IoMode::kAuto) {
      direct_ = false;
      io_reason_ = "the file system refused a write with O_DIRECT";
    } else {
      fail("splice", moved,
           moved == 0 ? "a pipe held less than was put into it" : "a page could not be written");
    }
  }
}

void ShardFile::note_run(const Placed& placed) {
  const auto pages = static_cast<uint32_t>(placed.range.pages());
  if (!runs_.empty()) {
    StoredRun& last = runs_.back();
    const uint64_t bytes = uint64_t{last.pages} * kPageBytes;
    if (last.address + bytes == placed.range.start && last.offset + bytes == placed.offset &&
        last.pages <= kMostPagesPerRun - pages) {
      last.pages += pages;
      return;
    }
  }
  runs_.push_back({placed.range.start, pages, index_, placed.offset});
}

void ShardFile::cut() {
  if (places_ != nullptr) {
    return;
  }
  const long result = sys::call_restarting(SYS_ftruncate, fd_.get(), static_cast<long>(bytes_));
  if (result < 0) {
    fail("ftruncate", result, "cannot be cut to its length");
  }
}

void ShardFile::sync() {
  const long result = sys::call_restarting(SYS_fsync, fd_.get());
  if (result < 0) {
    fail("fsync", result, "cannot be made durable");
  }
}

std::vector<uint32_t> ShardFile::checksum(uint64_t piece_bytes) const {
  return checksum_file(path_, bytes_, piece_bytes, direct_);
}

std::vector<uint32_t> checksum_file(const std::string& path, uint64_t bytes, uint64_t piece_bytes,
                                    bool direct) {
  long opened = sys::call(SYS_openat, AT_FDCWD, path.c_str(),
                          O_RDONLY | O_CLOEXEC | O_NOFOLLOW | (direct ? O_DIRECT : 0));
  if (opened == -EINVAL && direct) {
    opened = sys::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  }
  if (opened < 0) {
    throw Error("IO", 0, "openat", static_cast<int>(-opened), "cannot read back " + path);
  }
  const ScopedFd fd(static_cast<int>(opened));
  LazyBuffer memory;
  char* buffer = memory.get(kReadBytes);
  std::vector<uint32_t> sums;
  uint32_t sum = 0;
  uint64_t in_piece = 0;
  for (uint64_t at = 0; at < bytes;) {
    const uint64_t wanted = std::min(kReadBytes, bytes - at);
    const long got = sys::call_restarting(SYS_pread64, fd.get(), buffer, wanted, at);
    if (got <= 0) {
      throw Error("IO", 0, "pread64", static_cast<int>(-got), "cannot read back " + path);
    }
    for (uint64_t done = 0; done < static_cast<uint64_t>(got);) {
      const uint64_t part = std::min(piece_bytes - in_piece, static_cast<uint64_t>(got) - done);
      sum = crc32c(sum, buffer + done, part);
      done += part;
      in_piece += part;
      if (in_piece == piece_bytes) {
        sums.push_back(sum);
        sum = 0;
        in_piece = 0;
      }
    }
    at += static_cast<uint64_t>(got);
  }
  if (in_piece > 0) {
    sums.push_back(sum);
  }
  return sums;
}

}  // namespace sluice
