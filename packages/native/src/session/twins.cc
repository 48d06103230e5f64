// The twin of a DumpSession: whether there may be one, and what it would cost.
#include <algorithm>
#include <thread>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/memory_room.h"
#include "kernel/proc_descriptors.h"
#include "kernel/proc_status.h"
#include "pages/scan_calls.h"
#include "session/dump_session.h"

namespace sluice {
namespace {

constexpr uint64_t kKibPerPage = kPageBytes / 1024;
// Fewer say nothing about how fast the disk is.
constexpr uint64_t kLeastDrainedPages = 4096;

// Pages in huge ones, in units of 4 KiB; none where the kernel does not tell.
uint64_t count_huge_pages(pid_t pid, const CapturePlan& plan) {
  ScanCalls calls(pid);
  if (!calls.knows(abi::kPageIsHuge)) {
    return 0;
  }
  PageQuery query;
  query.mask = query.returned = abi::kPageIsHuge;
  uint64_t pages = 0;
  for (const CaptureItem& item : plan.items) {
    if (item.trackable) {
      calls.walk(item.range, query, kPagesPerLiveCall, [&](PageRange run, uint64_t) {
        pages += run.pages();
        return true;
      });
    }
  }
  return pages;
}

// With a userfaultfd that asked for it (UFFD_FEATURE_EVENT_FORK) a clone waits until its owner has
// heard of it: for ever, if the owner is frozen.
constexpr char kUserfaultfd[] = "anon_inode:[userfaultfd]";
constexpr const char* kWatchedFlags[] = {"um", "uw", "ui"};

bool is_watched(const VmFlags& mapping) {
  return std::any_of(std::begin(kWatchedFlags), std::end(kWatchedFlags),
                     [&](const char* flag) { return has_vm_flag(mapping.flags, flag); });
}

// What a twin needs at most: page tables and mappings of its own, and in the end, if the target
// writes to all of its memory meanwhile, a copy of that. Less would do most of the time; but that
// the kernel would kill the twin before the target is not certain (memory.oom.group kills both).
uint64_t twin_bytes(const ProcStatus& status, size_t mappings) {
  constexpr uint64_t kBytesPerMapping = 1024;
  constexpr uint64_t kSpareBytes = uint64_t{1} << 20;
  return (status.rss_anon_kb + status.swap_kb + status.page_tables_kb) * 1024 +
         mappings * kBytesPerMapping + kSpareBytes;
}

}  // namespace

// What takes some milliseconds and hardly changes: when the target is first looked at.
void DumpSession::measure_costs(const CapturePlan& plan) {
  if (options_.consistency == Consistency::kAuto && !huge_pages_) {
    huge_pages_ = count_huge_pages(options_.pid, plan);
    // Beside all else; who needs them first waits.
    measuring_ = std::async(std::launch::async, [] { memory_rates(); });
  }
}

// Everything that the choice needs and that is known before the freeze.
void DumpSession::prepare_twin(Round* round) {
  RoundWork* const work = &round->work;
  if (!work->copy || work->kind == RoundKind::kLive) {
    return;
  }
  std::string* const reason = &round->result.consistency_reason;
  if (options_.consistency == Consistency::kCopy) {
    *reason = "as asked for";
    return;
  }
  if (!lanes_.front()->has_helper()) {
    *reason = "no helper could be started in it, which a twin needs";
    return;
  }
  // The flags were read before the tracker began to watch.
  if (std::any_of(vm_flags_.begin(), vm_flags_.end(), is_watched) ||
      !descriptors_to(options_.pid, kUserfaultfd).empty()) {
    *reason = "it uses a userfaultfd, whose owner a twin could wait for";
    return;
  }
  const auto status = read_status(options_.pid);
  const auto room = memory_room(options_.pid);
  if (status && room && room->bytes < twin_bytes(*status, vm_flags_.size())) {
    *reason = "a twin could bring it over its limit on memory (" + room->limit + ")";
    return;
  }
  ConsistencyCosts* const costs = &round->twinning.costs;
  costs->wish = options_.consistency;
  const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  costs->lanes = std::min(options_.lanes, processors);
  costs->drain_us = drain_us_;
  if (status) {
    costs->own_pages = (status->rss_anon_kb + status->swap_kb) / kKibPerPage;
  }
  if (costs->wish == Consistency::kAuto) {
    costs->rates = memory_rates();
    costs->huge_pages = huge_pages_.value_or(0);
  }
  work->twinning = &round->twinning;
}

void DumpSession::note_consistency(Round* round) const {
  RoundResult* const result = &round->result;
  const Twinning& twinning = round->twinning;
  result->by_twin = twinning.twin != nullptr;
  if (round->work.twinning != nullptr) {
    result->consistency_reason =
        twinning.failure.empty() ? twinning.choice.reason : twinning.failure;
  }
  const bool wanted = round->work.copy && options_.consistency == Consistency::kTwin;
  if (!result->by_twin && (wanted || !twinning.failure.empty())) {
    round->work.plan.warnings.push_back("its pages were copied under freeze, without a twin: " +
                                        result->consistency_reason);
  }
}

void DumpSession::note_drain_rate(const Round& round) {
  uint64_t pages = 0;
  for (const auto& shard : round.shards) {
    pages += shard->bytes() / kPageBytes;
  }
  if (pages >= kLeastDrainedPages) {
    drain_us_ = round.result.memwrite_us / static_cast<double>(pages);
  }
}

}  // namespace sluice
