#include "target/detach_remote.h"

#include <thread>

#include "base/error.h"
#include "kernel/proc_maps.h"
#include "kernel/target_facts.h"
#include "target/code_search.h"
#include "target/tracer_task.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kTryLimit{500};
// A target that executes another program meanwhile has other mappings at the next try, and its C
// library a little later: each pause is twice as long as the one before, 2.5 s in all.
constexpr int kMostTries = 9;
constexpr std::chrono::milliseconds kFirstPause{10};
// For a thread of it to be held up by that.
constexpr std::chrono::seconds kFreezeLimit{10};

void remove_once(const TargetHandle& target, std::vector<HelperRemains>* remains, bool* search) {
  TaskLimit limit;
  limit.set(Clock::now() + kFreezeLimit);
  TracerTask(&limit).run([&] {
    const TargetMemory memory(target.pid());
    const auto maps = read_maps(target.pid());
    if (*search) {
      const auto found = find_remains(memory, maps);
      remains->insert(remains->end(), found.begin(), found.end());
      *search = false;
    }
    const auto thread =
        target.stop_thread(memory, find_gadgets(memory, maps), maps, Clock::now() + kTryLimit);
    *remains = remove_remains(thread.get(), *remains);
  });
}

}  // namespace

std::vector<std::string> remove_last_remains(const TargetHandle& target,
                                             std::vector<HelperRemains> remains, bool search) {
  std::vector<std::string> warnings;
  const auto some_left = [&] { return search || !remains.empty(); };
  auto pause = kFirstPause;
  for (int tries = 0; tries < kMostTries && some_left() && !target.has_ended(); ++tries) {
    if (tries > 0) {
      std::this_thread::sleep_for(pause);
      pause *= 2;
    }
    warnings.clear();
    try {
      remove_once(target, &remains, &search);
    } catch (const Error& error) {
      warnings.push_back(error.what());
    }
  }
  // A process that is gone has nothing left in it.
  if (target.has_ended()) {
    return {};
  }
  for (const HelperRemains& item : remains) {
    warnings.push_back("left in process " + std::to_string(target.pid()) + ": " +
                       (item.zombie != 0 ? "zombie child " + std::to_string(item.zombie)
                                         : std::string("a mapping of 32 KiB")) +
                       "; the next dump of it removes that");
  }
  return warnings;
}

Cleaned clean_target(pid_t pid) {
  TargetHandle target(pid, require_dumpable(pid).start_time_ticks);
  target.claim();
  const TargetMemory memory(pid);
  const auto remains = find_remains(memory, read_maps(pid));
  Cleaned cleaned;
  for (const HelperRemains& item : remains) {
    ++(item.zombie != 0 ? cleaned.zombies : cleaned.mappings);
  }
  cleaned.left = remove_last_remains(target, remains);
  return cleaned;
}

}  // namespace sluice
