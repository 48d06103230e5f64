// /proc/PID/maps and the VmFlags of /proc/PID/smaps. Hand-written parsing: a large process has
// 60,000 mappings, and the maps are read while it is frozen.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t offset = 0;
  uint64_t inode = 0;
  unsigned dev_major = 0;
  unsigned dev_minor = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  // As the kernel prints it: a newline in a name is `\012`, other characters are themselves, and
  // " (deleted)" is part of it. Names like "[heap]" stand for no file; "" is anonymous memory.
  std::string path;

  bool operator==(const Mapping&) const = default;
};

// Whether an object is behind it. Its inode alone does not tell: the first System V segment of an
// IPC namespace has number 0.
inline bool has_file(const Mapping& mapping) {
  return mapping.inode != 0 || mapping.dev_major != 0 || mapping.dev_minor != 0;
}

// The lines as the kernel prints them, each with its newline. The result is ascending and does not
// overlap: while a process changes its mappings, a line can go back to before the end of the last
// one; what is newer holds. Anything else throws SYSTEM.
std::vector<Mapping> parse_maps(std::string_view text);

// Throws NO_SUCH_PROCESS when the process is gone, and also when it has no address space: a kernel
// thread, a zombie, a process that is just ending. So the result is never empty. Of a running
// process it is no snapshot: each mapping was there at some time during the call, and those that
// stood all the time are all there.
std::vector<Mapping> read_maps(pid_t pid);

// Like "r-x".
std::string protection_text(const Mapping& mapping);

// Like "fe:00", as maps prints it.
std::string device_text(const Mapping& mapping);

// The path has the suffix " (deleted)": no name leads to the file any more, which is also so for
// memfd, System V and other shared memory. A file whose real name ends so looks the same.
bool is_deleted(const Mapping& mapping);

// Path without the " (deleted)" suffix and with newlines decoded; "" for anonymous memory and for
// pseudo-paths like "[stack]".
std::string file_path(const Mapping& mapping);

// A pseudo-path: "[heap]", "[vdso]", "[anon:name]".
bool has_pseudo_path(const Mapping& mapping);

// A mapping and what else the kernel notes of it.
struct VmFlags : Mapping {
  // Two-letter codes of proc_pid_smaps(5), separated by one space, like "rd wr mr mw me ac sd".
  std::string flags;

  bool operator==(const VmFlags&) const = default;
};

// `code` is one of the two-letter codes in `flags`.
bool has_vm_flag(std::string_view flags, std::string_view code);

// Of the text of smaps; throws SYSTEM when malformed.
std::vector<VmFlags> parse_vm_flags(std::string_view text);

// For every mapping, ascending. Walks the page tables of the target: milliseconds per GiB, so never
// under freeze. Throws as read_maps does.
std::vector<VmFlags> read_vm_flags(pid_t pid);

}  // namespace sluice
