// Open files of a process: /proc/PID/fd and /proc/PID/fdinfo.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct OpenDescriptor {
  uint32_t descriptor = 0;
  std::string path;       // what its link leads to, like "socket:[123]" where it is no file
  uint64_t position = 0;  // bytes
  uint32_t flags = 0;     // O_* of open(2), O_CLOEXEC among them
};

// nullopt if it is not open or may not be looked at.
std::optional<OpenDescriptor> read_descriptor(pid_t pid, uint32_t number);

// Ascending, at most `most`. They may change while the list is made: one that is closed meanwhile
// is not in it. None if the process is gone or may not be looked at.
std::vector<OpenDescriptor> list_descriptors(pid_t pid, size_t most);

// Numbers of those that lead to a path, and not to a socket or a pipe. Ascending, at most `most`.
std::vector<uint32_t> descriptors_of_files(pid_t pid, size_t most);

// Names in /proc/PID/fd of those that lead to an object of the kernel like "anon_inode:[io_uring]".
// None if the process is gone or may not be looked at.
std::vector<std::string> descriptors_to(pid_t pid, std::string_view object);

// Fills position and flags from the text of a file in fdinfo; false when malformed.
bool parse_fdinfo(std::string_view text, OpenDescriptor* descriptor);

}  // namespace sluice
