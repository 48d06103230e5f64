#include "kernel/process_state.h"

#include <sys/resource.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// They are for information: a manifest need not hold more.
constexpr size_t kMostDescriptors = 65'536;

struct LimitName {
  int resource;
  const char* name;
};
constexpr LimitName kLimits[] = {
    {RLIMIT_CPU, "CPU"},           {RLIMIT_FSIZE, "FSIZE"},
    {RLIMIT_DATA, "DATA"},         {RLIMIT_STACK, "STACK"},
    {RLIMIT_CORE, "CORE"},         {RLIMIT_RSS, "RSS"},
    {RLIMIT_NPROC, "NPROC"},       {RLIMIT_NOFILE, "NOFILE"},
    {RLIMIT_MEMLOCK, "MEMLOCK"},   {RLIMIT_AS, "AS"},
    {RLIMIT_LOCKS, "LOCKS"},       {RLIMIT_SIGPENDING, "SIGPENDING"},
    {RLIMIT_MSGQUEUE, "MSGQUEUE"}, {RLIMIT_NICE, "NICE"},
    {RLIMIT_RTPRIO, "RTPRIO"},     {RLIMIT_RTTIME, "RTTIME"},
};
static_assert(std::size(kLimits) == RLIM_NLIMITS);

std::vector<ResourceLimit> limits_of(pid_t pid) {
  std::vector<ResourceLimit> limits;
  for (const auto& [resource, name] : kLimits) {
    rlimit64 limit{};
    if (sys::call(SYS_prlimit64, pid, resource, nullptr, &limit) == 0) {
      limits.push_back({name, limit.rlim_cur, limit.rlim_max});
    }
  }
  return limits;
}

std::string link_if_readable(pid_t pid, const char* name) {
  try {
    return read_proc_link(pid, name).value_or("");
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

std::optional<ProcessState> read_process_state(pid_t pid) {
  try {
    auto status = read_status(pid);
    auto stat = read_stat(pid);
    if (!status || !stat) {
      return std::nullopt;
    }
    return ProcessState{std::move(*status), std::move(*stat), limits_of(pid)};
  } catch (const Error&) {
    return std::nullopt;
  }
}

ProcessFiles read_process_files(pid_t pid, const std::vector<uint32_t>& descriptors) {
  ProcessFiles files{link_if_readable(pid, "cwd"), link_if_readable(pid, "root"), {}};
  for (const uint32_t number : descriptors) {
    if (auto open = read_descriptor(pid, number)) {
      files.descriptors.push_back(std::move(*open));
    }
  }
  return files;
}

void add_descriptors(pid_t pid, ProcessFiles* files) {
  std::vector<OpenDescriptor> all = list_descriptors(pid, kMostDescriptors);
  const auto by_number = [](const OpenDescriptor& a, const OpenDescriptor& b) {
    return a.descriptor < b.descriptor;
  };
  std::vector<OpenDescriptor>& known = files->descriptors;
  // Of equal ones those of the first range are kept.
  std::vector<OpenDescriptor> merged;
  std::set_union(known.begin(), known.end(), all.begin(), all.end(), std::back_inserter(merged),
                 by_number);
  known = std::move(merged);
}

}  // namespace sluice
