#include "pages/mapped_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>

#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

int64_t nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::string map_files_path(pid_t pid, const Mapping& mapping) {
  char range[40];
  snprintf(range, sizeof range, "%lx-%lx", mapping.start, mapping.end);
  return proc_path(pid, std::string("map_files/") + range);
}

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// By name, for callers that may not open what is mapped.
bool memory_backed_by_name(const std::string& path) {
  return starts_with(path, "/memfd:") || starts_with(path, "/SYSV") ||
         starts_with(path, "/dev/zero (deleted)") || starts_with(path, "/dev/shm/") ||
         starts_with(path, "[anon_shmem:") || starts_with(path, "/anon_hugepage (deleted)");
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

const std::optional<MappedFile>& MappedFiles::look_up(const Mapping& mapping) {
  const Key key{mapping.dev_major, mapping.dev_minor, mapping.inode, mapping.path};
  std::optional<MappedFile>& result = known_[key];
  // What no name leads to may have grown since, and its size decides what is captured. Of a file
  // that has a name only what it was is kept, and a change shows when it is read.
  if (result && result->reachable && !result->memory_backed) {
    return result;
  }
  result.reset();

  MappedFile file;
  file.path = file_path(mapping);
  const std::string through_root = proc_path(pid_, "root") + file.path;
  struct stat by_path{};
  const bool has_path = !file.path.empty() && stat(through_root.c_str(), &by_path) == 0;
  struct stat mapped{};
  if (stat(map_files_path(pid_, mapping).c_str(), &mapped) == 0) {
    file.reachable = has_path && by_path.st_dev == mapped.st_dev && by_path.st_ino == mapped.st_ino;
  } else if (has_path && by_path.st_ino == mapping.inode) {
    mapped = by_path;
    file.reachable = true;
  } else if (memory_backed_by_name(mapping.path)) {
    file.memory_backed = true;
    file.inode = mapping.inode;
    result = file;
    return result;
  } else {
    return result;
  }
  note_status(mapped, &file);
  struct statfs system{};
  const std::string& at = file.reachable ? through_root : map_files_path(pid_, mapping);
  if (statfs(at.c_str(), &system) == 0) {
    file.huge_pages = system.f_type == HUGETLBFS_MAGIC;
    file.memory_backed = file.huge_pages || system.f_type == TMPFS_MAGIC;
  }
  file.memory_backed =
      !file.character_device && (file.memory_backed || memory_backed_by_name(mapping.path));
  result = file;
  return result;
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

}  // namespace sluice
