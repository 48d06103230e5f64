#include "kernel/proc_task.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/error.h"
#include "kernel/proc_file.h"

namespace sluice {
namespace {

bool parse_id(TextCursor& cursor, pid_t& id) {
  uint64_t value = 0;
  if (!cursor.take_decimal(value) || value > std::numeric_limits<pid_t>::max()) {
    return false;
  }
  id = static_cast<pid_t>(value);
  return true;
}

std::string task_file(pid_t tid, const char* name) {
  return "task/" + std::to_string(tid) + "/" + name;
}

// Looks at errno, where 0 is no failure.
void throw_unless_gone(pid_t pid, const char* call, const std::string& path) {
  const int err = errno;
  if (err != 0 && err != ENOENT && err != ESRCH) {
    throw Error(err == EACCES || err == EPERM ? "PERMISSION" : "SYSTEM", pid, call, err,
                "cannot list the threads in " + path);
  }
}

}  // namespace

std::optional<std::vector<pid_t>> list_threads(pid_t pid) {
  const std::string path = proc_path(pid, "task");
  const ScopedDir dir(::opendir(path.c_str()));
  if (!dir) {
    throw_unless_gone(pid, "openat", path);
    return std::nullopt;
  }
  std::vector<pid_t> tids;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) {
      throw_unless_gone(pid, "getdents64", path);
      break;
    }
    TextCursor cursor(entry->d_name);
    pid_t tid = 0;
    if (parse_id(cursor, tid) && cursor.at_end()) {
      tids.push_back(tid);
    }
  }
  // Even a zombie has an entry; the C library hides the ENOENT of a process that went away.
  if (tids.empty()) {
    return std::nullopt;
  }
  std::sort(tids.begin(), tids.end());
  return tids;
}

std::vector<pid_t> parse_children(std::string_view text) {
  std::vector<pid_t> children;
  TextCursor cursor(text);
  while (!cursor.at_end()) {
    pid_t child = 0;
    if (!parse_id(cursor, child) || !cursor.take(' ')) {
      throw_malformed("children", text);
    }
    children.push_back(child);
  }
  return children;
}

std::optional<std::vector<pid_t>> list_children(pid_t pid, pid_t tid) {
  const auto text = read_proc_file(pid, task_file(tid, "children"));
  return text ? std::optional(parse_children(*text)) : std::nullopt;
}

std::optional<std::string> thread_name(pid_t pid, pid_t tid) {
  auto name = read_proc_file(pid, task_file(tid, "comm"));
  if (name && name->ends_with('\n')) {
    name->pop_back();
  }
  return name;
}

std::vector<std::string> parse_command_line(std::string_view text) {
  std::vector<std::string> arguments;
  while (!text.empty()) {
    const size_t end = text.find('\0');
    arguments.emplace_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return arguments;
}

std::optional<std::vector<std::string>> command_line(pid_t pid) {
  const auto text = read_proc_file(pid, "cmdline");
  return text ? std::optional(parse_command_line(*text)) : std::nullopt;
}

std::optional<std::string> executable(pid_t pid) { return read_proc_link(pid, "exe"); }

}  // namespace sluice
