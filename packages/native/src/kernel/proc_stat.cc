#include "kernel/proc_stat.h"

#include <algorithm>
#include <limits>

#include "kernel/proc_file.h"

namespace sluice {
namespace {

// Numbers of fields as proc_pid_stat(5) counts them.
constexpr int kPpidField = 4;
constexpr int kProcessGroupField = 5;
constexpr int kSessionField = 6;
constexpr int kFlagsField = 9;
constexpr int kNiceField = 19;
constexpr int kThreadsField = 20;
constexpr int kStartTimeField = 22;
constexpr int kExitSignalField = 38;
constexpr int kExitCodeField = 52;

struct AddressField {
  int field;
  uint64_t ProcAddresses::* address;
};
constexpr AddressField kAddressFields[] = {
    {26, &ProcAddresses::start_code},        {27, &ProcAddresses::end_code},
    {28, &ProcAddresses::start_stack},       {45, &ProcAddresses::start_data},
    {46, &ProcAddresses::end_data},          {47, &ProcAddresses::start_break},
    {48, &ProcAddresses::arguments_start},   {49, &ProcAddresses::arguments_end},
    {50, &ProcAddresses::environment_start}, {51, &ProcAddresses::environment_end},
};

// Fields 4 to 22, of which some are signed; start time would not fit int64_t after 2.9 billion
// years.
bool parse_fields(TextCursor& cursor, ProcStat& stat) {
  for (int field = kPpidField; field <= kStartTimeField; ++field) {
    int64_t value = 0;
    if (!cursor.take(' ') || !cursor.take_signed(value)) {
      return false;
    }
    if (field == kPpidField) {
      if (value < 0 || value > std::numeric_limits<pid_t>::max()) {
        return false;
      }
      stat.ppid = static_cast<pid_t>(value);
    } else if (field == kProcessGroupField || field == kSessionField) {
      if (value > std::numeric_limits<pid_t>::max()) {
        return false;
      }
      // -1 of a process that is ending.
      (field == kProcessGroupField ? stat.process_group : stat.session_leader) =
          static_cast<pid_t>(std::max<int64_t>(value, 0));
    } else if (field == kNiceField) {
      stat.nice = static_cast<int>(value);
    } else if (field == kFlagsField) {
      stat.flags = static_cast<uint64_t>(value);
    } else if (field == kThreadsField) {
      if (value < 0 || value > std::numeric_limits<int>::max()) {
        return false;
      }
      stat.num_threads = static_cast<unsigned>(value);
    } else if (field == kStartTimeField) {
      stat.start_time_ticks = static_cast<uint64_t>(value);
    }
  }
  return true;
}

// What follows the start time: some fields are signed, some are as large as uint64_t, and older
// kernels print fewer.
void parse_late_fields(std::string_view text, ProcStat& stat) {
  for (int field = kStartTimeField + 1; !text.empty(); ++field) {
    const size_t end = text.find(' ');
    TextCursor token(text.substr(0, end));
    int64_t value = 0;
    if ((field == kExitSignalField || field == kExitCodeField) && token.take_signed(value)) {
      (field == kExitSignalField ? stat.exit_signal : stat.exit_code) = static_cast<int>(value);
    }
    for (const AddressField& known : kAddressFields) {
      if (field == known.field) {
        token.take_decimal(stat.addresses.*known.address);
      }
    }
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

}  // namespace

ProcStat parse_stat(std::string_view text) {
  ProcStat stat;
  TextCursor head(text);
  uint64_t pid = 0;
  // The name may hold anything, but behind it come only numbers: the last parenthesis ends it.
  const size_t name_end = text.rfind(')');
  if (!head.take_decimal(pid) || pid > std::numeric_limits<pid_t>::max() || !head.take(' ') ||
      !head.take('(') || name_end == std::string_view::npos) {
    throw_malformed("stat", text);
  }
  stat.pid = static_cast<pid_t>(pid);
  const size_t name_start = text.size() - head.rest().size();
  if (name_end < name_start) {
    throw_malformed("stat", text);
  }
  stat.comm = text.substr(name_start, name_end - name_start);

  TextCursor tail(text.substr(name_end + 1));
  if (!tail.take(' ') || tail.at_end()) {
    throw_malformed("stat", text);
  }
  stat.state = tail.rest().front();
  tail.take(stat.state);
  // A number cut short would look like a smaller one: the last one needed must have an end.
  if (!parse_fields(tail, stat) || (!tail.take(' ') && !tail.take('\n'))) {
    throw_malformed("stat", text);
  }
  parse_late_fields(tail.rest(), stat);
  return stat;
}

std::optional<ProcStat> read_stat(pid_t pid) {
  const std::optional<std::string> text = read_proc_file(pid, "stat");
  return text ? std::optional(parse_stat(*text)) : std::nullopt;
}

}  // namespace sluice
