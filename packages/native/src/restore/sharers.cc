#include "restore/sharers.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "base/error.h"
#include "kernel/memory_users.h"
#include "kernel/proc_file.h"
#include "kernel/proc_task.h"

namespace sluice {
namespace {

constexpr size_t kMostNamed = 5;

// Device and inode, as in maps.
using Object = std::tuple<unsigned, unsigned, uint64_t>;
Object object_of(const Mapping& mapping) {
  return {mapping.dev_major, mapping.dev_minor, mapping.inode};
}

bool is_written(const WantedVma& vma, const std::vector<PageRange>& stored) {
  if (!vma.mapping.shared || !has_file(vma.mapping)) {
    return false;
  }
  const auto run =
      std::lower_bound(stored.begin(), stored.end(), vma.mapping.start,
                       [](const PageRange& range, uint64_t at) { return range.end <= at; });
  return vma.is_object() ||
         (vma.kind == VmaKind::kSharedFile && run != stored.end() && run->start < vma.mapping.end);
}

std::vector<Mapping> maps_if_readable(pid_t pid) {
  try {
    return read_maps(pid);
  } catch (const Error&) {
    return {};  // gone, a kernel thread, or somebody else's
  }
}

// `pids` is not empty.
[[noreturn]] void throw_shared(pid_t pid, const std::string& what, const std::vector<pid_t>& pids) {
  std::string text;
  for (size_t i = 0; i < std::min(pids.size(), kMostNamed); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(pids[i]) + " (" +
            thread_name(pids[i], pids[i]).value_or("") + ")";
  }
  if (pids.size() > kMostNamed) {
    text += " and " + std::to_string(pids.size() - kMostNamed) + " more";
  }
  throw Error("RESTORE_MISMATCH", pid, "", 0,
              what + " is shared with process " + text +
                  ", which would see it change (option shared allows that)");
}

}  // namespace

void require_unshared(pid_t pid, pid_t helper, const std::vector<WantedVma>& wanted,
                      const std::vector<PageRange>& stored) {
  std::vector<pid_t> users = memory_users(pid);
  std::erase(users, helper);
  if (!users.empty()) {
    throw_shared(pid, "its memory", users);
  }
  std::map<Object, std::string> written;
  for (const WantedVma& vma : wanted) {
    if (is_written(vma, stored)) {
      written.emplace(object_of(vma.mapping), vma.mapping.path);
    }
  }
  std::map<Object, std::vector<pid_t>> sharers;
  const ScopedDir proc(written.empty() ? nullptr : ::opendir("/proc"));
  for (const uint32_t number : numbers_in(proc.get())) {
    const auto other = static_cast<pid_t>(number);
    if (other == pid || other == helper) {
      continue;
    }
    for (const Mapping& mapping : maps_if_readable(other)) {
      std::vector<pid_t>* pids =
          written.contains(object_of(mapping)) ? &sharers[object_of(mapping)] : nullptr;
      if (pids != nullptr && (pids->empty() || pids->back() != other)) {
        pids->push_back(other);
      }
    }
  }
  if (!sharers.empty()) {
    const auto& [object, pids] = *sharers.begin();
    throw_shared(pid, written[object], pids);
  }
}

}  // namespace sluice
