#include "kernel/proc_descriptors.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "kernel/proc_file.h"

namespace sluice {
namespace {

// Empty if the process is gone or may not be looked at.
ScopedDir fd_directory(pid_t pid) { return ScopedDir(::opendir(proc_path(pid, "fd").c_str())); }

}  // namespace

bool parse_fdinfo(std::string_view text, OpenDescriptor* descriptor) {
  bool has_position = false;
  bool has_flags = false;
  TextCursor cursor(text);
  for (std::string_view line; cursor.take_line(line) && !(has_position && has_flags);) {
    const size_t colon = line.find(':');
    TextCursor value(line.substr(colon == std::string_view::npos ? line.size() : colon + 1));
    value.skip_blanks();
    int64_t position = 0;
    uint64_t flags = 0;
    if (line.starts_with("pos:") && value.take_signed(position)) {
      has_position = true;
      descriptor->position = static_cast<uint64_t>(position);  // negative in some devices
    } else if (line.starts_with("flags:") && value.take_octal(flags) &&
               flags <= std::numeric_limits<uint32_t>::max()) {
      has_flags = true;
      descriptor->flags = static_cast<uint32_t>(flags);
    }
  }
  return has_position && has_flags;
}

std::optional<OpenDescriptor> read_descriptor(pid_t pid, uint32_t number) {
  try {
    const std::string name = std::to_string(number);
    const auto path = read_proc_link(pid, "fd/" + name);
    const auto info = read_proc_file(pid, "fdinfo/" + name);
    OpenDescriptor open{number, path.value_or(""), 0, 0};
    return path && info && parse_fdinfo(*info, &open) ? std::optional(std::move(open))
                                                      : std::nullopt;
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::vector<OpenDescriptor> list_descriptors(pid_t pid, size_t most) {
  std::vector<uint32_t> numbers = numbers_in(fd_directory(pid).get());
  numbers.resize(std::min(numbers.size(), most));
  std::vector<OpenDescriptor> descriptors;
  for (const uint32_t number : numbers) {
    if (auto open = read_descriptor(pid, number)) {
      descriptors.push_back(std::move(*open));
    }
  }
  return descriptors;
}

std::vector<uint32_t> descriptors_of_files(pid_t pid, size_t most) {
  const ScopedDir dir = fd_directory(pid);
  std::vector<uint32_t> numbers = numbers_in(dir.get());
  std::erase_if(numbers, [&](uint32_t number) {
    char begin = 0;
    return ::readlinkat(::dirfd(dir.get()), std::to_string(number).c_str(), &begin, 1) != 1 ||
           begin != '/';
  });
  numbers.resize(std::min(numbers.size(), most));
  return numbers;
}

std::vector<std::string> descriptors_to(pid_t pid, std::string_view object) {
  std::vector<std::string> names;
  std::string target(object.size() + 1, '\0');
  const ScopedDir dir = fd_directory(pid);
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    const ssize_t length =
        ::readlinkat(::dirfd(dir.get()), entry->d_name, target.data(), target.size());
    if (length >= 0 && std::string_view(target.data(), static_cast<size_t>(length)) == object) {
      names.push_back(entry->d_name);
    }
  }
  return names;
}

}  // namespace sluice
