#include "kernel/proc_file.h"

#include <fcntl.h>
#include <limits.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

bool means_gone(long result) { return result == -ENOENT || result == -ESRCH; }

[[noreturn]] void throw_failed(pid_t pid, const char* call, long result, const std::string& path) {
  const int err = static_cast<int>(-result);
  const bool denied = err == EACCES || err == EPERM;
  std::string detail = "cannot read " + path;
  if (denied) {
    detail += "; run Sluice as root or as the user that owns the process";
  } else if (err == EMFILE || err == ENFILE) {
    detail += "; raise the limit on open files";
  }
  throw Error(denied ? "PERMISSION" : "SYSTEM", pid, call, err, detail);
}

std::optional<std::string> read_whole(pid_t pid, const std::string& path) {
  const long opened =
      sys::call_restarting(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (opened < 0) {
    if (means_gone(opened)) {
      return std::nullopt;
    }
    throw_failed(pid, "openat", opened, path);
  }
  const ScopedFd fd(static_cast<int>(opened));

  // Files of /proc have no size: read until nothing comes. However much is asked for, most of them
  // give a page at a time.
  std::string text;
  size_t used = 0;
  for (;;) {
    if (text.size() - used < 4096) {
      text.resize(text.empty() ? 8192 : text.size() * 2);
    }
    const long got =
        sys::call_restarting(SYS_read, fd.get(), text.data() + used, text.size() - used);
    if (got == 0) {
      text.resize(used);
      return text;
    }
    if (got < 0) {
      if (means_gone(got)) {
        return std::nullopt;
      }
      throw_failed(pid, "read", got, path);
    }
    used += static_cast<size_t>(got);
  }
}

template <typename T>
bool take_number(std::string_view& rest, T& value, int base) {
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value, base);
  if (error != std::errc()) {
    return false;
  }
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  return true;
}

}  // namespace

ScopedFd open_pagemap(pid_t pid) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, proc_path(pid, "pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const bool gone = fd == -ENOENT || fd == -ESRCH;
    throw Error(gone ? "NO_SUCH_PROCESS" : "PERMISSION", pid, "openat", static_cast<int>(-fd),
                gone ? "the process is gone" : "its page table may not be read by this user");
  }
  return ScopedFd(static_cast<int>(fd));
}

std::string proc_path(pid_t pid, std::string_view name) {
  std::string path = "/proc/" + std::to_string(pid);
  if (!name.empty()) {
    path += '/';
    path += name;
  }
  return path;
}

std::optional<std::string> read_proc_file(pid_t pid, std::string_view name) {
  return read_whole(pid, proc_path(pid, name));
}

std::optional<std::string> read_kernel_file(const std::string& path) {
  try {
    return read_whole(0, path);
  } catch (const Error& error) {
    if (error.is("PERMISSION")) {
      return std::nullopt;
    }
    throw;
  }
}

std::optional<std::string> read_proc_link(pid_t pid, std::string_view name) {
  const std::string path = proc_path(pid, name);
  char buffer[PATH_MAX];
  const long length = sys::call(SYS_readlinkat, AT_FDCWD, path.c_str(), &buffer[0], sizeof(buffer));
  if (length < 0) {
    if (means_gone(length)) {
      return std::nullopt;
    }
    throw_failed(pid, "readlinkat", length, path);
  }
  return std::string(buffer, static_cast<size_t>(length));
}

std::vector<uint32_t> numbers_in(DIR* directory) {
  std::vector<uint32_t> numbers;
  while (const dirent* entry = directory != nullptr ? ::readdir(directory) : nullptr) {
    TextCursor cursor(entry->d_name);
    uint64_t number = 0;
    if (cursor.take_decimal(number) && cursor.at_end()) {
      numbers.push_back(static_cast<uint32_t>(number));
    }
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

bool TextCursor::take(char expected) {
  if (rest_.empty() || rest_.front() != expected) {
    return false;
  }
  rest_.remove_prefix(1);
  return true;
}

void TextCursor::skip_blanks() {
  const size_t at = rest_.find_first_not_of(" \t");
  rest_.remove_prefix(at == std::string_view::npos ? rest_.size() : at);
}

bool TextCursor::take_hex(uint64_t& value) { return take_number(rest_, value, 16); }
bool TextCursor::take_decimal(uint64_t& value) { return take_number(rest_, value, 10); }
bool TextCursor::take_octal(uint64_t& value) { return take_number(rest_, value, 8); }
bool TextCursor::take_signed(int64_t& value) { return take_number(rest_, value, 10); }

bool TextCursor::take_line(std::string_view& line) {
  if (rest_.empty()) {
    return false;
  }
  const size_t at = rest_.find('\n');
  line = rest_.substr(0, at);
  rest_.remove_prefix(at == std::string_view::npos ? rest_.size() : at + 1);
  return true;
}

void throw_malformed(std::string_view what, std::string_view text) {
  constexpr size_t kMostQuoted = 120;
  std::string quoted;
  for (const char c : text.substr(0, kMostQuoted)) {
    if (c >= 0x20 && c < 0x7f) {
      quoted += c;
    } else {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned char>(c));
      quoted += escape;
    }
  }
  if (text.size() > kMostQuoted) {
    quoted += "...";
  }
  throw Error("SYSTEM", 0, "", 0,
              "unexpected text in " + std::string(what) + ": \"" + quoted +
                  "\"; please report it together with the kernel's version");
}

}  // namespace sluice
