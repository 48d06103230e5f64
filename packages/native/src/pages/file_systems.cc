#include "pages/file_systems.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernel/proc_file.h"

namespace sluice {
namespace {

// Those that need nobody but the kernel, and a disk at most. What is not among them may ask. Layers
// of an overlay can be any, and nearly always are of these.
constexpr std::array<std::string_view, 32> kLocal = {
    "bcachefs", "bpf",    "btrfs",  "cgroup",  "cgroup2", "debugfs", "devtmpfs",  "erofs",
    "exfat",    "ext2",   "ext3",   "ext4",    "f2fs",    "hfsplus", "hugetlbfs", "iso9660",
    "jfs",      "mqueue", "nilfs2", "ntfs3",   "overlay", "proc",    "ramfs",     "rootfs",
    "squashfs", "sysfs",  "tmpfs",  "tracefs", "udf",     "vfat",    "xfs",       "zfs",
};

bool is_local(std::string_view type) {
  return std::find(kLocal.begin(), kLocal.end(), type) != kLocal.end();
}

bool take_number(TextCursor& cursor, unsigned& number) {
  uint64_t value = 0;
  if (!cursor.take_decimal(value) || value > std::numeric_limits<unsigned>::max()) {
    return false;
  }
  number = static_cast<unsigned>(value);
  return true;
}

// Of file systems that the kernel keeps for itself and that are mounted nowhere.
bool is_internal_by_name(const std::string& path) {
  return memory_backed_by_name(path) || path.starts_with("/[aio]") ||
         path.starts_with("anon_inode:") || path.starts_with("/secretmem");
}

}  // namespace

// 36 35 98:0 /root /where/it/is rw,noatime master:1 - ext3 /dev/root rw
void FileSystems::learn_from(std::string_view mountinfo) {
  TextCursor cursor(mountinfo);
  for (std::string_view line; cursor.take_line(line);) {
    TextCursor number(line);
    uint64_t id = 0;
    uint64_t parent = 0;
    std::pair<unsigned, unsigned> device;
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos || !number.take_decimal(id) || !number.take(' ') ||
        !number.take_decimal(parent) || !number.take(' ') || !take_number(number, device.first) ||
        !number.take(':') || !take_number(number, device.second)) {
      continue;
    }
    const std::string_view rest = line.substr(dash + 3);
    asks_[device] = !is_local(rest.substr(0, rest.find(' ')));
  }
}

void FileSystems::learn(pid_t pid) {
  learn_from(read_kernel_file("/proc/self/mountinfo").value_or(""));
  learn_from(read_kernel_file(proc_path(pid, "mountinfo")).value_or(""));
}

bool FileSystems::may_ask(const Mapping& mapping) const {
  const auto known = asks_.find({mapping.dev_major, mapping.dev_minor});
  if (known != asks_.end()) {
    return known->second;
  }
  // Mounted elsewhere, or nowhere. With a number of its own it is on a disk.
  return mapping.dev_major == 0 && !is_internal_by_name(mapping.path);
}

bool memory_backed_by_name(const std::string& path) {
  return path.starts_with("/memfd:") || path.starts_with("/SYSV") ||
         path.starts_with("/dev/zero (deleted)") || path.starts_with("/dev/shm/") ||
         path.starts_with("[anon_shmem:") || path.starts_with("/anon_hugepage (deleted)");
}

}  // namespace sluice
