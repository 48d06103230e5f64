#include "kernel/proc_descriptors.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "kernel/proc_file.h"

namespace sluice {

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

std::vector<OpenDescriptor> list_descriptors(pid_t pid, size_t most) {
  std::vector<OpenDescriptor> descriptors;
  const ScopedDir dir(::opendir(proc_path(pid, "fd").c_str()));
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    TextCursor cursor(entry->d_name);
    uint64_t number = 0;
    if (cursor.take_decimal(number) && cursor.at_end()) {
      descriptors.push_back({static_cast<uint32_t>(number), "", 0, 0});
    }
  }
  std::sort(descriptors.begin(), descriptors.end(),
            [](const auto& a, const auto& b) { return a.descriptor < b.descriptor; });
  descriptors.resize(std::min(descriptors.size(), most));
  std::erase_if(descriptors, [&](OpenDescriptor& open) {
    try {
      const std::string name = std::to_string(open.descriptor);
      const auto path = read_proc_link(pid, "fd/" + name);
      const auto info = read_proc_file(pid, "fdinfo/" + name);
      open.path = path.value_or("");
      return !path || !info || !parse_fdinfo(*info, &open);
    } catch (const Error&) {
      return true;
    }
  });
  return descriptors;
}

std::vector<std::string> descriptors_to(pid_t pid, std::string_view object) {
  std::vector<std::string> names;
  std::string target(object.size() + 1, '\0');
  const ScopedDir dir(::opendir(proc_path(pid, "fd").c_str()));
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
