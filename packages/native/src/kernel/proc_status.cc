#include "kernel/proc_status.h"

#include <limits>

#include "kernel/proc_file.h"

namespace sluice {
namespace {

// The kernel escapes newline and backslash in the name, and nothing else.
std::string decode_name(std::string_view escaped) {
  std::string name;
  for (size_t i = 0; i < escaped.size(); ++i) {
    if (escaped[i] == '\\' && i + 1 < escaped.size()) {
      ++i;
      name += escaped[i] == 'n' ? '\n' : escaped[i];
    } else {
      name += escaped[i];
    }
  }
  return name;
}

template <typename T>
bool parse_number(std::string_view text, T& value) {
  TextCursor cursor(text);
  uint64_t number = 0;
  if (!cursor.take_decimal(number) || !cursor.at_end() ||
      number > static_cast<uint64_t>(std::numeric_limits<T>::max())) {
    return false;
  }
  value = static_cast<T>(number);
  return true;
}

template <typename T>
bool parse_list(std::string_view text, std::vector<T>& values) {
  TextCursor cursor(text);
  while (!cursor.at_end()) {
    uint64_t number = 0;
    if (!cursor.take_decimal(number) ||
        number > static_cast<uint64_t>(std::numeric_limits<T>::max())) {
      return false;
    }
    values.push_back(static_cast<T>(number));
    cursor.skip_blanks();
  }
  return true;
}

bool parse_ids(std::string_view text, ProcIds& ids) {
  std::vector<uint32_t> all;
  if (!parse_list(text, all) || all.size() != 4) {
    return false;
  }
  ids = {all[0], all[1], all[2], all[3]};
  return true;
}

bool parse_flag(std::string_view text, bool& flag) {
  unsigned number = 0;
  const bool good = parse_number(text, number);
  flag = number != 0;
  return good;
}

bool parse_kilobytes(std::string_view text, uint64_t& kilobytes) {
  return text.ends_with(" kB") && parse_number(text.substr(0, text.size() - 3), kilobytes);
}

bool parse_hex(std::string_view text, uint64_t& value) {
  TextCursor cursor(text);
  return cursor.take_hex(value) && cursor.at_end();
}

bool parse_octal(std::string_view text, uint32_t& value) {
  TextCursor cursor(text);
  uint64_t number = 0;
  if (!cursor.take_octal(number) || !cursor.at_end() || number > 0777) {
    return false;
  }
  value = static_cast<uint32_t>(number);
  return true;
}

struct Mask {
  std::string_view key;
  uint64_t ProcStatus::* mask;
};
constexpr Mask kMasks[] = {
    {"SigPnd", &ProcStatus::pending}, {"ShdPnd", &ProcStatus::process_pending},
    {"SigBlk", &ProcStatus::blocked}, {"SigIgn", &ProcStatus::ignored},
    {"SigCgt", &ProcStatus::caught},  {"CapInh", &ProcStatus::cap_inh},
    {"CapPrm", &ProcStatus::cap_prm}, {"CapEff", &ProcStatus::cap_eff},
    {"CapBnd", &ProcStatus::cap_bnd}, {"CapAmb", &ProcStatus::cap_amb},
};

enum RequiredLine : unsigned {
  kName = 1 << 0,
  kState = 1 << 1,
  kTgid = 1 << 2,
  kPid = 1 << 3,
  kPpid = 1 << 4,
  kTracer = 1 << 5,
  kUids = 1 << 6,
  kThreads = 1 << 7,
  kAllLines = (1 << 8) - 1,
};

// False for a malformed value; lines of no interest are none.
bool parse_line(std::string_view key, std::string_view raw, ProcStatus& status, unsigned& seen) {
  TextCursor blanks(raw);
  blanks.skip_blanks();
  const std::string_view value = blanks.rest();
  if (key == "Name") {
    seen |= kName;
    // Exactly one tab belongs to the format; blanks after it belong to the name.
    status.name = decode_name(raw.starts_with('\t') ? raw.substr(1) : raw);
    return true;
  }
  if (key == "State") {
    seen |= kState;
    status.state = value.empty() ? '?' : value.front();
    return !value.empty();
  }
  if (key == "Tgid") {
    seen |= kTgid;
    return parse_number(value, status.tgid);
  }
  if (key == "Pid") {
    seen |= kPid;
    return parse_number(value, status.pid);
  }
  if (key == "PPid") {
    seen |= kPpid;
    return parse_number(value, status.ppid);
  }
  if (key == "TracerPid") {
    seen |= kTracer;
    return parse_number(value, status.tracer_pid);
  }
  if (key == "Uid") {
    seen |= kUids;
    return parse_ids(value, status.uids);
  }
  if (key == "Threads") {
    seen |= kThreads;
    return parse_number(value, status.threads);
  }
  if (key == "NSpid") {
    status.ns_pids.clear();
    return parse_list(value, status.ns_pids) && !status.ns_pids.empty();
  }
  if (key == "VmRSS") {
    return parse_kilobytes(value, status.rss_kb);
  }
  if (key == "RssAnon") {
    return parse_kilobytes(value, status.rss_anon_kb);
  }
  if (key == "VmPTE") {
    return parse_kilobytes(value, status.page_tables_kb);
  }
  if (key == "VmSwap") {
    return parse_kilobytes(value, status.swap_kb);
  }
  if (key == "Seccomp") {
    return parse_number(value, status.seccomp_mode);
  }
  for (const Mask& known : kMasks) {
    if (key == known.key) {
      return parse_hex(value, status.*known.mask);
    }
  }
  if (key == "Gid") {
    return parse_ids(value, status.gids);
  }
  if (key == "Groups") {
    status.groups.clear();
    return parse_list(value, status.groups);
  }
  if (key == "Umask") {
    return parse_octal(value, status.umask);
  }
  if (key == "NoNewPrivs") {
    return parse_flag(value, status.no_new_privs);
  }
  if (key == "voluntary_ctxt_switches") {
    return parse_number(value, status.voluntary_switches);
  }
  if (key == "Kthread") {
    return parse_flag(value, status.kernel_thread.emplace());
  }
  return true;
}

}  // namespace

ProcStatus parse_status(std::string_view text) {
  ProcStatus status;
  unsigned seen = 0;
  TextCursor cursor(text);
  for (std::string_view line; cursor.take_line(line);) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos ||
        !parse_line(line.substr(0, colon), line.substr(colon + 1), status, seen)) {
      throw_malformed("status", line);
    }
  }
  if (seen != kAllLines) {
    throw_malformed("status (lines are missing)", text);
  }
  if (status.ns_pids.empty()) {
    status.ns_pids.push_back(status.pid);
  }
  return status;
}

std::optional<ProcStatus> read_status(pid_t pid) {
  const std::optional<std::string> text = read_proc_file(pid, "status");
  return text ? std::optional(parse_status(*text)) : std::nullopt;
}

std::optional<ProcStatus> read_thread_status(pid_t pid, pid_t tid) {
  const auto text = read_proc_file(pid, "task/" + std::to_string(tid) + "/status");
  return text ? std::optional(parse_status(*text)) : std::nullopt;
}

}  // namespace sluice
