#include "pages/mapped_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/page_ranges.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr uint64_t kBlockUnit = 512;  // of st_blocks (stat(2))
constexpr size_t kReadBytes = size_t{64} << 10;

int64_t nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::tuple<unsigned, unsigned, uint64_t, std::string> key_of(const Mapping& mapping) {
  return {mapping.dev_major, mapping.dev_minor, mapping.inode, mapping.path};
}

std::string map_files_path(pid_t pid, const Mapping& mapping) {
  char range[40];
  snprintf(range, sizeof range, "%lx-%lx", mapping.start, mapping.end);
  return proc_path(pid, std::string("map_files/") + range);
}

timespec time_of(const statx_timestamp& time) {
  return {static_cast<time_t>(time.tv_sec), static_cast<long>(time.tv_nsec)};
}

// A byte other than zero, before the end of the file; nullopt if it cannot be read.
std::optional<bool> any_set(int fd, PageRange range, std::vector<uint8_t>* block) {
  for (uint64_t at = range.start; at < range.end;) {
    const size_t bytes = std::min<uint64_t>(block->size(), range.end - at);
    const long got = sys::call_restarting(SYS_pread64, fd, block->data(), bytes, at);
    if (got < 0) {
      return std::nullopt;
    }
    if (got == 0) {
      break;
    }
    // Compared with itself a byte further, as fast as memory is: a freeze may wait for this.
    const uint8_t* const bytes_read = block->data();
    if (bytes_read[0] != 0 ||
        std::memcmp(bytes_read, bytes_read + 1, static_cast<size_t>(got) - 1) != 0) {
      return true;
    }
    at += static_cast<uint64_t>(got);
  }
  return false;
}

// What the kernel knows of a file by itself.
bool known_status(int fd, struct stat* status) {
  struct statx known{};
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &known) != 0) {
    return false;
  }
  status->st_dev = makedev(known.stx_dev_major, known.stx_dev_minor);
  status->st_ino = known.stx_ino;
  status->st_mode = known.stx_mode;
  status->st_rdev = makedev(known.stx_rdev_major, known.stx_rdev_minor);
  status->st_size = static_cast<off_t>(known.stx_size);
  status->st_mtim = time_of(known.stx_mtime);
  status->st_ctim = time_of(known.stx_ctime);
  return true;
}

}  // namespace

void note_status(const struct stat& status, MappedFile* file) {
  file->device = status.st_dev;
  file->inode = status.st_ino;
  file->bytes = static_cast<uint64_t>(status.st_size);
  file->modified_ns = nanoseconds(status.st_mtim);
  file->changed_ns = nanoseconds(status.st_ctim);
  file->character_device = S_ISCHR(status.st_mode);
  file->zero_device = file->character_device && status.st_rdev == makedev(1, 5);
}

std::string differing_file(const MappedFile& was, const MappedFile& is, bool times) {
  std::string text;
  const auto compare = [&](const char* what, auto then, auto now) {
    if (then != now) {
      text += (text.empty() ? "" : "; ") + std::string(what) + " " + std::to_string(then) +
              ", now " + std::to_string(now);
    }
  };
  compare("device", was.device, is.device);
  compare("inode", was.inode, is.inode);
  compare("size", was.bytes, is.bytes);
  if (times) {
    compare("modification time", was.modified_ns, is.modified_ns);
    compare("change time", was.changed_ns, is.changed_ns);
  }
  return text;
}

void MappedFiles::learn() {
  systems_.learn(pid_);
  const long fd = sys::call(SYS_openat, AT_FDCWD, proc_path(pid_, "root").c_str(),
                            O_PATH | O_DIRECTORY | O_CLOEXEC);
  root_ = ScopedFd(fd < 0 ? -1 : static_cast<int>(fd));
}

const LookUp& MappedFiles::look_up(const Mapping& mapping, Ask ask) {
  const auto [at, is_new] = known_.try_emplace(key_of(mapping));
  LookUp& known = at->second;
  // What no name leads to may have grown since, and its size decides what is captured. Of a file
  // that has a name only what it was is kept, and a change shows when it is read.
  if (known.file && known.file->reachable && !known.file->memory_backed) {
    return known;
  }
  if (!withholds(mapping, ask)) {
    known = {look(mapping, ask), false};
  } else if (is_new) {
    known.unasked = true;
  }
  return known;
}

std::optional<MappedFile> MappedFiles::look(const Mapping& mapping, Ask ask) const {
  MappedFile file;
  file.path = file_path(mapping);
  struct stat by_path{};
  struct statfs system{};
  const bool has_path = find_path(mapping, ask, &by_path, &system);
  struct stat mapped{};
  if (stat(map_files_path(pid_, mapping).c_str(), &mapped) == 0) {
    file.reachable = has_path && by_path.st_dev == mapped.st_dev && by_path.st_ino == mapped.st_ino;
  } else if (has_path && by_path.st_ino == mapping.inode) {
    mapped = by_path;
    file.reachable = true;
  } else if (memory_backed_by_name(mapping.path)) {
    file.memory_backed = true;
    file.inode = mapping.inode;
    return file;
  } else {
    return std::nullopt;
  }
  note_status(mapped, &file);
  if (file.reachable || statfs(map_files_path(pid_, mapping).c_str(), &system) == 0) {
    file.huge_pages = system.f_type == HUGETLBFS_MAGIC;
    file.memory_backed = file.huge_pages || system.f_type == TMPFS_MAGIC;
  }
  file.memory_backed =
      !file.character_device && (file.memory_backed || memory_backed_by_name(mapping.path));
  return file;
}

// What the path of a mapping leads to. A way there can lead over file systems that may have to be
// asked. Where they must not be, the kernel is asked first for what it knows by itself, as it does
// the names of what is mapped. It may not tell (before Linux 5.12, behind a seccomp filter, while
// anything is being mounted); then the way is gone all the same, for what is not found is missing
// in the image, and the file itself is on a local file system.
bool MappedFiles::find_path(const Mapping& mapping, Ask ask, struct stat* status,
                            struct statfs* system) const {
  const std::string path = file_path(mapping);
  if (!path.starts_with('/')) {
    return false;
  }
  if (ask == Ask::kNo) {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_CACHED;
    const long opened = sys::call(SYS_openat2, root_.get(), path.c_str() + 1, &how, sizeof how);
    const ScopedFd fd(opened < 0 ? -1 : static_cast<int>(opened));
    if (fd && known_status(fd.get(), status)) {
      if (status->st_dev == makedev(mapping.dev_major, mapping.dev_minor)) {
        fstatfs(fd.get(), system);
      }
      return true;
    }
    if (opened == -ENOENT) {
      return false;
    }
  }
  const std::string through_root = proc_path(pid_, "root") + path;
  if (stat(through_root.c_str(), status) != 0) {
    return false;
  }
  statfs(through_root.c_str(), system);
  return true;
}

std::optional<std::vector<PageRange>> MappedFiles::data_of(const Mapping& mapping, uint64_t bytes,
                                                           Ask ask) {
  const DataKey key{key_of(mapping), mapping.offset, bytes};
  if (withholds(mapping, ask)) {
    const auto known = data_.find(key);
    return known == data_.end() ? std::nullopt : known->second;
  }
  const ScopedFd fd = open(mapping);
  auto ranges = fd ? data_ranges(fd.get(), mapping.offset, bytes) : std::nullopt;
  if (systems_.may_ask(mapping)) {
    data_[key] = ranges;
  }
  return ranges;
}

ScopedFd MappedFiles::open(const Mapping& mapping) const {
  const long fd = sys::call(SYS_openat, AT_FDCWD, map_files_path(pid_, mapping).c_str(),
                            O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  return ScopedFd(fd < 0 ? -1 : static_cast<int>(fd));
}

std::optional<std::vector<PageRange>> data_ranges(int fd, uint64_t offset, uint64_t bytes) {
  std::vector<PageRange> ranges;
  const uint64_t end = offset + bytes;
  for (uint64_t at = offset; at < end;) {
    const long data = sys::call(SYS_lseek, fd, at, SEEK_DATA);
    if (data == -ENXIO) {
      break;  // no data from here on
    }
    if (data < 0) {
      return std::nullopt;
    }
    const long hole = sys::call(SYS_lseek, fd, data, SEEK_HOLE);
    if (hole < 0) {
      return std::nullopt;
    }
    const uint64_t from = static_cast<uint64_t>(data) / kPageBytes * kPageBytes;
    const uint64_t to = (static_cast<uint64_t>(hole) + kPageBytes - 1) / kPageBytes * kPageBytes;
    if (from >= end) {
      break;
    }
    ranges.push_back({std::max(from, offset), std::min(to, end)});
    at = std::max(to, at + kPageBytes);
  }
  return ranges;
}

std::optional<std::vector<PageRange>> huge_data(int fd, uint64_t offset, uint64_t bytes,
                                                const std::vector<PageRange>& known, bool of_file) {
  struct stat status{};
  if (sys::call(SYS_fstat, fd, &status) < 0) {
    return std::nullopt;
  }
  // All that it has, so that mostly nothing need be read.
  uint64_t left = static_cast<uint64_t>(status.st_blocks) * kBlockUnit;
  for (const PageRange& range : known) {
    left -= of_file ? std::min(left, range.bytes()) : 0;
  }
  const auto huge = static_cast<uint64_t>(status.st_blksize);
  std::vector<PageRange> found;
  std::vector<uint8_t> block(kReadBytes);
  for (const PageRange& gap : subtracted({{offset, offset + bytes}}, known)) {
    for (uint64_t at = gap.start; at < gap.end && left > 0; at += huge) {
      const PageRange page{at, std::min(at + huge, gap.end)};
      const auto holds_data = any_set(fd, page, &block);
      if (!holds_data) {
        return std::nullopt;
      }
      if (*holds_data) {
        append_range(&found, page);
        left -= std::min(left, huge);
      }
    }
  }
  return found;
}

}  // namespace sluice
