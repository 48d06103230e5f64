// The file behind a mapping: what it is, whether a name still leads to it, where it has data.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "kernel/proc_maps.h"

namespace sluice {

struct MappedFile {
  std::string path;
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;
  bool memory_backed = false;  // tmpfs, hugetlbfs, memfd, System V: gone with the machine
  bool huge_pages = false;     // hugetlbfs
  bool character_device = false;
  bool zero_device = false;  // /dev/zero
  bool reachable = false;    // `path` leads to this very file
};

// Notes in `file` what `status` says of it.
void note_status(const struct stat& status, MappedFile* file);

// What tells the file `is` from the file `was`, in words, "" for nothing. `times`: its times too.
std::string differing_file(const MappedFile& was, const MappedFile& is, bool times);

// Looks files up once each; a lookup costs some system calls, which are best made before a freeze.
class MappedFiles {
 public:
  explicit MappedFiles(pid_t pid) : pid_(pid) {}

  // nullopt: the mapping is gone, or the caller may not look behind it.
  const std::optional<MappedFile>& look_up(const Mapping& mapping);
  // Opens what is mapped, whether a name leads to it or not (/proc/PID/map_files, proc(5); needs
  // CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN). An empty descriptor if that is not allowed.
  ScopedFd open(const Mapping& mapping) const;

 private:
  using Key = std::tuple<unsigned, unsigned, uint64_t, std::string>;

  pid_t pid_;
  std::map<Key, std::optional<MappedFile>> known_;
};

// Parts of [offset, offset + bytes) of a file that hold data, as file offsets in whole pages, by
// SEEK_DATA and SEEK_HOLE (lseek(2)). nullopt if the file system cannot tell.
std::optional<std::vector<PageRange>> data_ranges(int fd, uint64_t offset, uint64_t bytes);

}  // namespace sluice
