// The file behind a mapping: what it is, whether a name still leads to it, where it has data.
#pragma once

#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "kernel/proc_maps.h"
#include "pages/file_systems.h"

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

// Whether file systems may be asked about files that may never answer (file_systems.h): not under a
// freeze, which would last until they do.
enum class Ask { kYes, kNo };

struct LookUp {
  // nullopt: the mapping is gone, or the caller may not look behind it, or it is `unasked`.
  std::optional<MappedFile> file;
  // Not known, and must not be asked for.
  bool unasked = false;
};

// Looks files up once each; a lookup costs some system calls, which are best made before a freeze.
class MappedFiles {
 public:
  explicit MappedFiles(pid_t pid) : pid_(pid) {}

  // Looks what is mounted, the process running: what has to be known before look-ups under a
  // freeze.
  void learn();

  const LookUp& look_up(const Mapping& mapping, Ask ask);
  // Where the first `bytes` of what is mapped hold data, as data_ranges() has it. If its file
  // system must not be asked, where they did when the same was asked for last.
  std::optional<std::vector<PageRange>> data_of(const Mapping& mapping, uint64_t bytes, Ask ask);
  // Its file system would have to be asked, and must not be.
  bool withholds(const Mapping& mapping, Ask ask) const {
    return ask == Ask::kNo && systems_.may_ask(mapping);
  }
  // Opens what is mapped, whether a name leads to it or not (/proc/PID/map_files, proc(5); needs
  // CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN). An empty descriptor if that is not allowed.
  ScopedFd open(const Mapping& mapping) const;

 private:
  using Key = std::tuple<unsigned, unsigned, uint64_t, std::string>;
  using DataKey = std::tuple<Key, uint64_t, uint64_t>;  // offset and bytes

  std::optional<MappedFile> look(const Mapping& mapping, Ask ask) const;
  bool find_path(const Mapping& mapping, Ask ask, struct stat* status, struct statfs* system) const;

  pid_t pid_;
  ScopedFd root_;  // of the process
  FileSystems systems_;
  std::map<Key, LookUp> known_;
  // Of files that may have to be asked for.
  std::map<DataKey, std::optional<std::vector<PageRange>>> data_;
};

// Parts of [offset, offset + bytes) of a file that hold data, as file offsets in whole pages, by
// SEEK_DATA and SEEK_HOLE (lseek(2)). nullopt if the file system cannot tell.
std::optional<std::vector<PageRange>> data_ranges(int fd, uint64_t offset, uint64_t bytes);

// Huge pages of [offset, offset + bytes) of a file of hugetlbfs that hold anything but zeros, as
// file offsets, apart from `known` (ascending, not overlapping). That file system does not tell
// where it has data, but being read it makes none. `of_file`: the known pages are the file's own.
// nullopt if it cannot be read.
std::optional<std::vector<PageRange>> huge_data(int fd, uint64_t offset, uint64_t bytes,
                                                const std::vector<PageRange>& known, bool of_file);

}  // namespace sluice
