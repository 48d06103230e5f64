// Reading /proc/PID. A process may go away at any time, so "gone" is a value here: nullopt.
// Everything else that fails is an Error, code PERMISSION (EACCES, EPERM) or SYSTEM.
#pragma once

#include <dirent.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/scoped_fd.h"

namespace sluice {

// Whole contents of /proc/PID/NAME, like "maps" or "task/12/comm"; nullopt when there is no such
// process (ENOENT, ESRCH). A name that this kernel does not have looks the same: callers that read
// an optional file must know the process to be alive.
std::optional<std::string> read_proc_file(pid_t pid, std::string_view name);

// Where the symbolic link /proc/PID/NAME leads; nullopt when there is no such process, or nothing
// that the link could lead to (`exe` of a kernel thread).
std::optional<std::string> read_proc_link(pid_t pid, std::string_view name);

// Whole contents of another file of the kernel's, in /proc/sys or /sys; nullopt when it is not
// there or may not be read.
std::optional<std::string> read_kernel_file(const std::string& path);

// /proc/PID/pagemap, for reading. Throws PERMISSION, NO_SUCH_PROCESS.
ScopedFd open_pagemap(pid_t pid);

// "/proc/PID/NAME", or "/proc/PID" for an empty name.
std::string proc_path(pid_t pid, std::string_view name);

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using ScopedDir = std::unique_ptr<DIR, CloseDir>;

// Entries whose names are numbers, ascending; none for nullptr.
std::vector<uint32_t> numbers_in(DIR* directory);

// Cursor over the text of a /proc file. It fails by returning false and then stays where it was;
// which text was malformed only the caller can say.
class TextCursor {
 public:
  explicit TextCursor(std::string_view text) : rest_(text) {}

  bool at_end() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }
  bool take(char expected);
  // Blanks and tabs, possibly none.
  void skip_blanks();
  // One number of at least one digit that fits; hex without prefix, lower or upper case.
  bool take_hex(uint64_t& value);
  bool take_decimal(uint64_t& value);
  bool take_octal(uint64_t& value);
  // With a sign; fits int64_t.
  bool take_signed(int64_t& value);
  // Up to the next newline, which is consumed and not returned; false at the end of the text.
  bool take_line(std::string_view& line);

 private:
  std::string_view rest_;
};

// Throws the Error (SYSTEM) for text that does not look as proc(5) says it does. Quotes the start
// of `text`, with control characters escaped.
[[noreturn]] void throw_malformed(std::string_view what, std::string_view text);

}  // namespace sluice
