// The parsers of /proc. The kernel writes these files; names in them are the target's choice. Any
// text gives values that hold what the headers promise, or the Error SYSTEM.
#include <string>
#include <vector>

#include "base/error.h"
#include "base/page_ranges.h"
#include "input.h"
#include "kernel/proc_descriptors.h"
#include "kernel/proc_file.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_rings.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "pages/capture_plan.h"

namespace sluice::fuzz {
namespace {

template <typename Range>
void require_ascending(const std::vector<Range>& ranges) {
  uint64_t last = 0;
  for (const Range& range : ranges) {
    REQUIRE(range.start >= last && range.start < range.end);
    REQUIRE(range.start % kPageBytes == 0 && range.end % kPageBytes == 0);
    last = range.end;
  }
}

// As the kernel prints it.
std::string line_of(const Mapping& mapping) {
  char head[120];
  std::snprintf(head, sizeof head, "%lx-%lx %s%c %08lx %s %lu ", mapping.start, mapping.end,
                protection_text(mapping).c_str(), mapping.shared ? 's' : 'p', mapping.offset,
                device_text(mapping).c_str(), mapping.inode);
  return head + mapping.path + "\n";
}

void maps(std::string_view text) {
  const std::vector<Mapping> mappings = parse_maps(text);
  require_ascending(mappings);
  std::string printed;
  for (const Mapping& mapping : mappings) {
    printed += line_of(mapping);
    REQUIRE(file_path(mapping).size() <= mapping.path.size());
    const PlannedVma vma = classify(mapping, std::nullopt);
    REQUIRE((vma.kind == VmaKind::kExcluded) == !vma.left_out.empty());
  }
  REQUIRE(parse_maps(printed) == mappings);
}

void vm_flags(std::string_view text) {
  const std::vector<VmFlags> all = parse_vm_flags(text);
  require_ascending(all);
  for (const VmFlags& each : all) {
    REQUIRE(each.flags.empty() || !has_vm_flag(each.flags, "none of these"));
  }
}

void status(std::string_view text) {
  const ProcStatus status = parse_status(text);
  REQUIRE(status.pid >= 0 && status.tgid >= 0 && status.ppid >= 0 && status.tracer_pid >= 0);
  REQUIRE(!status.ns_pids.empty() && status.name.size() <= text.size());
}

void stat(std::string_view text) {
  const ProcStat stat = parse_stat(text);
  REQUIRE(stat.pid >= 0 && stat.ppid >= 0 && stat.process_group >= 0 && stat.session_leader >= 0);
  REQUIRE(text.find(stat.comm) != std::string_view::npos);
}

void lists(std::string_view text) {
  size_t bytes = 0;
  for (const std::string& argument : parse_command_line(text)) {
    bytes += argument.size() + 1;
  }
  REQUIRE(bytes == text.size() || bytes == text.size() + 1);
  for (const pid_t child : parse_children(text)) {
    REQUIRE(child >= 0);
  }
}

void descriptor(std::string_view text) {
  OpenDescriptor open;
  parse_fdinfo(text, &open);
  const PageRanges buffers = parse_registered_buffers(text);
  for (const PageRange& buffer : buffers) {
    REQUIRE(buffer.start < buffer.end);
    REQUIRE(buffer.start % kPageBytes == 0 && buffer.end % kPageBytes == 0);
  }
  require_ascending(normalised(buffers));
}

constexpr void (*kParsers[])(std::string_view) = {maps, vm_flags, status, stat, lists, descriptor};

}  // namespace

void run(Input input) {
  const auto parse = kParsers[input.below(std::size(kParsers))];
  try {
    parse(input.rest());
  } catch (const Error& error) {
    REQUIRE(error.is("SYSTEM"));
  }
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  sluice::fuzz::run({data, bytes});
  return 0;
}
