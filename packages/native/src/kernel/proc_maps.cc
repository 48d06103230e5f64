#include "kernel/proc_maps.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "base/page_range.h"
#include "kernel/proc_file.h"

namespace sluice {
namespace {

constexpr std::string_view kDeletedSuffix = " (deleted)";
constexpr std::string_view kVmFlagsKey = "VmFlags:";

bool take_either(TextCursor& cursor, char set, char unset, bool& flag) {
  flag = cursor.take(set);
  return flag || cursor.take(unset);
}

bool take_device_number(TextCursor& cursor, unsigned& number) {
  uint64_t value = 0;
  if (!cursor.take_hex(value) || value > std::numeric_limits<unsigned>::max()) {
    return false;
  }
  number = static_cast<unsigned>(value);
  return true;
}

// 7f12a000-7f12b000 rw-p 00001000 fe:00 1234          /path
bool parse_mapping(std::string_view line, Mapping& m) {
  TextCursor cursor(line);
  if (!cursor.take_hex(m.start) || !cursor.take('-') || !cursor.take_hex(m.end) ||
      !cursor.take(' ') || !take_either(cursor, 'r', '-', m.readable) ||
      !take_either(cursor, 'w', '-', m.writable) || !take_either(cursor, 'x', '-', m.executable) ||
      !take_either(cursor, 's', 'p', m.shared) || !cursor.take(' ') || !cursor.take_hex(m.offset) ||
      !cursor.take(' ') || !take_device_number(cursor, m.dev_major) || !cursor.take(':') ||
      !take_device_number(cursor, m.dev_minor) || !cursor.take(' ') ||
      !cursor.take_decimal(m.inode)) {
    return false;
  }
  if (!cursor.at_end() && !cursor.take(' ')) {
    return false;
  }
  cursor.skip_blanks();
  m.path = cursor.rest();
  return m.start < m.end && m.start % kPageBytes == 0 && m.end % kPageBytes == 0;
}

// The kernel goes on after the end of the mapping that it printed last. If that address lies in the
// middle of a mapping by now, because mappings were merged or one grew downwards, it prints all of
// it, from its start on. What is newer holds: the older ones are cut short or left out. False if
// this does not explain the order of the lines.
template <typename Range>
bool make_room(std::vector<Range>* before, uint64_t start, uint64_t end) {
  if (!before->empty() && end <= before->back().end) {
    return false;
  }
  while (!before->empty() && before->back().start >= start) {
    before->pop_back();
  }
  if (!before->empty()) {
    before->back().end = std::min(before->back().end, start);
  }
  return true;
}

// Header lines of smaps are lines of maps; all other lines begin with a capital letter.
bool is_header(std::string_view line) {
  return !line.empty() &&
         ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f'));
}

// A line that was cut short could look like another, shorter one.
void check_complete(const char* what, std::string_view text) {
  if (!text.empty() && text.back() != '\n') {
    throw_malformed(what, text.substr(text.rfind('\n') + 1));
  }
}

std::string read_or_throw(pid_t pid, const char* name) {
  std::optional<std::string> text = read_proc_file(pid, name);
  // Without an address space newer kernels say ESRCH, older ones give no text.
  if (!text || text->empty()) {
    throw Error("NO_SUCH_PROCESS", pid, "", 0,
                "process " + std::to_string(pid) + " has no memory: it has ended or never was");
  }
  return *std::move(text);
}

}  // namespace

std::vector<Mapping> parse_maps(std::string_view text) {
  check_complete("maps", text);
  std::vector<Mapping> mappings;
  mappings.reserve(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
  TextCursor cursor(text);
  for (std::string_view line; cursor.take_line(line);) {
    Mapping mapping;
    if (!parse_mapping(line, mapping) || !make_room(&mappings, mapping.start, mapping.end)) {
      throw_malformed("maps", line);
    }
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

std::vector<Mapping> read_maps(pid_t pid) { return parse_maps(read_or_throw(pid, "maps")); }

std::string protection_text(const Mapping& mapping) {
  return {mapping.readable ? 'r' : '-', mapping.writable ? 'w' : '-',
          mapping.executable ? 'x' : '-'};
}

std::string device_text(const Mapping& mapping) {
  char text[24];
  const int length =
      std::snprintf(text, sizeof(text), "%02x:%02x", mapping.dev_major, mapping.dev_minor);
  return {text, static_cast<size_t>(length)};
}

bool has_pseudo_path(const Mapping& mapping) { return mapping.path.starts_with('['); }

bool is_deleted(const Mapping& mapping) {
  return !has_pseudo_path(mapping) && mapping.path.ends_with(kDeletedSuffix);
}

std::string file_path(const Mapping& mapping) {
  if (has_pseudo_path(mapping)) {
    return "";
  }
  std::string path = mapping.path;
  if (is_deleted(mapping)) {
    path.resize(path.size() - kDeletedSuffix.size());
  }
  constexpr std::string_view kNewline = "\\012";
  for (size_t at = 0; (at = path.find(kNewline, at)) != std::string::npos; ++at) {
    path.replace(at, kNewline.size(), "\n");
  }
  return path;
}

bool has_vm_flag(std::string_view flags, std::string_view code) {
  while (!flags.empty()) {
    const size_t blank = flags.find(' ');
    if (flags.substr(0, blank) == code) {
      return true;
    }
    flags.remove_prefix(blank == std::string_view::npos ? flags.size() : blank + 1);
  }
  return false;
}

std::vector<VmFlags> parse_vm_flags(std::string_view text) {
  check_complete("smaps", text);
  std::vector<VmFlags> all;
  TextCursor cursor(text);
  bool flags_due = false;
  for (std::string_view line; cursor.take_line(line);) {
    if (is_header(line)) {
      Mapping mapping;
      if (flags_due || !parse_mapping(line, mapping) ||
          !make_room(&all, mapping.start, mapping.end)) {
        throw_malformed("smaps", line);
      }
      all.push_back({std::move(mapping), ""});
      flags_due = true;
    } else if (line.starts_with(kVmFlagsKey)) {
      if (!flags_due) {
        throw_malformed("smaps", line);
      }
      TextCursor value(line.substr(kVmFlagsKey.size()));
      value.skip_blanks();
      std::string_view flags = value.rest();
      while (flags.ends_with(' ')) {
        flags.remove_suffix(1);
      }
      all.back().flags = flags;
      flags_due = false;
    }
  }
  if (flags_due) {
    throw_malformed("smaps", "(end of file before VmFlags)");
  }
  return all;
}

std::vector<VmFlags> read_vm_flags(pid_t pid) {
  return parse_vm_flags(read_or_throw(pid, "smaps"));
}

}  // namespace sluice
