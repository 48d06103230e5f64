// What comes of a round of a DumpSession: its shards, and what is known of its pages.
#include <algorithm>
#include <utility>

#include "session/dump_session.h"

namespace sluice {
namespace {

constexpr char kUnreadable[] =
    "could not be read: a guard page, device memory, or memory with a hardware error";

// In flags: a userfaultfd protects pages of the mapping, which may be that of the tracker.
constexpr char kWriteProtected[] = "uw";

constexpr char kUnknown[] =
    "shared huge pages that are not mapped here, which could not be looked at";

constexpr char kAio[] =
    "it does asynchronous I/O (io_setup(2)): no tracker sees what the kernel reads into its memory "
    "during rounds";

// No place is so large that its pages could not be counted.
void add_placed(const PageRanges& pages, Places* places, std::vector<StoredRun>* runs) {
  for (const PageRange& range : pages) {
    for (const Placed& part : places->find(range)) {
      runs->push_back(
          {part.range.start, static_cast<uint32_t>(part.range.pages()), 0, part.offset});
    }
  }
}

// Huge pages that others share are few, and large: what is not known of them is not taken for
// zeros, neither by a reader nor by a restore, which would clear them.
void leave_out_unknown(RoundResult* result) {
  PageRanges huge;
  for (size_t i = 0; i < result->plan.vmas.size(); ++i) {
    const Mapping& mapping = result->plan.vmas[i].mapping;
    if (has_vm_flag(result->vm_flags[i], "ht")) {
      huge.push_back({mapping.start, mapping.end});
    }
  }
  PageRanges stored;
  for (const StoredRun& run : result->table.runs) {
    append_range(&stored, {run.address, run.address + uint64_t{run.pages} * kPageBytes});
  }
  for (const PageRange& range :
       subtracted(intersected(normalised(result->plan.incomplete), huge), stored)) {
    result->left_out.push_back({range, kUnknown});
  }
}

// With these bounds; null if there is none.
const VmFlags* find_at(const std::vector<VmFlags>& all, const Mapping& mapping) {
  const auto found =
      std::lower_bound(all.begin(), all.end(), mapping.start,
                       [](const VmFlags& flags, uint64_t start) { return flags.start < start; });
  const bool same =
      found != all.end() && found->start == mapping.start && found->end == mapping.end;
  return same ? &*found : nullptr;
}

std::string without_flag(const std::string& flags, std::string_view code) {
  std::string left;
  for (size_t at = 0; at < flags.size(); at += code.size() + 1) {
    const std::string_view flag = std::string_view(flags).substr(at, code.size());
    if (flag != code) {
      left += (left.empty() ? "" : " ") + std::string(flag);
    }
  }
  return left;
}

bool does_aio(const PlannedVma& vma) { return vma.mapping.path.starts_with("/[aio]"); }

}  // namespace

void DumpSession::drain_open(size_t drain, size_t round, const std::string& dir,
                             uint64_t preallocate_bytes) {
  Round* const at = round_at(round);
  const bool moving = at->work.kind == RoundKind::kLive && moving_pages_matter_;
  if (places_) {
    at->shards.at(drain) = std::make_unique<ShardFile>(places_.get(), options_.io, moving);
    return;
  }
  at->shards.at(drain) =
      std::make_unique<ShardFile>(dir, drain, options_.io, preallocate_bytes, moving);
}

void DumpSession::drain_run(size_t drain, size_t first, size_t last) {
  for (size_t number = first; number <= last; ++number) {
    Round* const round = round_at(number);
    try {
      round->exchange.drain_wait_gate();
      ShardFile* const shard = round->shards.at(drain).get();
      if (places_) {
        places_->learn(mappings_of(round->work.plan));
      }
      while (Slot* slot = round->exchange.take_filled()) {
        shard->append(slot);
        bytes_drained_.fetch_add(slot->bytes, std::memory_order_relaxed);
        round->exchange.give_empty(slot);
      }
      if (round->work.kind == RoundKind::kLive) {
        // What was reserved beyond its end is room that later rounds may need.
        shard->cut();
      }
      round->exchange.drain_done();
      if (places_ && number < last) {
        // What the next round writes to a place has to come after what this one does.
        round->exchange.wait_drains(false);
      }
    } catch (...) {
      fail_rounds(number, last);
      throw;
    }
  }
}

// Pages of earlier rounds that are there and were not written since.
PageRanges DumpSession::pages_in_parent(const Round& round) const {
  PageRanges looked;
  PageRanges changed;
  PageRanges kept;
  for (const LaneRound& lane : round.lanes) {
    append_all(&looked, lane.looked);
    append_all(&changed, lane.look.changed);
    append_all(&kept, lane.look.kept);
  }
  const PageRanges gone = subtracted(normalised(std::move(changed)), normalised(std::move(kept)));
  return subtracted(intersected(chain_, normalised(std::move(looked))), gone);
}

// Mappings come, and madvise(2) and mlock(2) change their flags, after the session has begun. To
// see that takes a walk through all page tables, so it is done when the target goes on again. Where
// it stands for longer, nothing waits for this but what waits for the drains.
void DumpSession::note_vm_flags(Round* round) const {
  try {
    round->vm_flags = read_vm_flags(options_.pid);
  } catch (const Error&) {
    // It has ended meanwhile. What is known from before has to do.
  }
}

// Those of after the freeze if the mapping is still the same one.
std::string DumpSession::vm_flags_of(const Round& round, const Mapping& mapping) const {
  const VmFlags* const before = find_at(vm_flags_, mapping);
  const VmFlags* const after = find_at(round.vm_flags, mapping);
  if (after == nullptr || static_cast<const Mapping&>(*after) != mapping) {
    return before != nullptr ? before->flags : "";
  }
  const bool own = before != nullptr && has_vm_flag(before->flags, kWriteProtected);
  const bool watched = tracker_ != nullptr && tracker_->mode() == TrackerMode::kUffdWp;
  return watched && !own ? without_flag(after->flags, kWriteProtected) : after->flags;
}

RoundResult DumpSession::finish_round(size_t number) {
  Round* const round = round_at(number);
  RoundResult result = std::move(round->result);
  std::vector<StoredRun> runs;
  for (const auto& shard : round->shards) {
    runs.insert(runs.end(), shard->runs().begin(), shard->runs().end());
  }
  const RoundKind kind = round->work.kind;
  for (const LaneRound& lane : round->lanes) {
    result.scan_us = std::max(result.scan_us, lane.scan_us);
    for (const PageRange& range : kind == RoundKind::kLive ? PageRanges{} : lane.left_out) {
      result.left_out.push_back({range, kUnreadable});
    }
  }
  result.plan = std::move(round->work.plan);
  if (kind == RoundKind::kLive) {
    result.plan.aliases.clear();  // it takes nothing that is mapped several times
  }
  const auto& vmas = result.plan.vmas;
  if (kind == RoundKind::kFinal && std::any_of(vmas.begin(), vmas.end(), does_aio)) {
    result.plan.warnings.push_back(kAio);
  }
  const PageRanges in_parent = kind == RoundKind::kFinal ? pages_in_parent(*round) : PageRanges{};
  if (places_) {
    // Earlier rounds have written them to where this one would.
    add_placed(in_parent, places_.get(), &runs);
    result.table = make_page_table(std::move(runs), result.plan.aliases);
    result.table.parent_pages = pages_of(in_parent);
    result.table.stored_pages -= result.table.parent_pages;
  } else {
    result.table = make_page_table(std::move(runs), result.plan.aliases, in_parent);
  }
  for (const PlannedVma& vma : result.plan.vmas) {
    result.vm_flags.push_back(vm_flags_of(*round, vma.mapping));
  }
  if (kind != RoundKind::kLive) {
    leave_out_unknown(&result);
  }
  for (ThreadState& thread : result.threads) {
    name_thread(options_.pid, identity_.namespace_pid, &thread);
  }
  if (result.process) {
    CapturedProcess& process = *result.process;
    process.auxiliary_vector = stamp_.auxiliary_vector;  // it is the same program
    process.program_break = round->lanes.front().program_break;
    process.signal_actions =
        actions_of_caught(process.state.status.caught, lanes_.front()->signal_actions());
    process.extended_layout = arch::extended_layout();
  }
  result.pinned_peak_bytes = round->exchange.pinned_peak_bytes();
  round->lanes.clear();
  return result;
}

SealedShard DumpSession::drain_seal(size_t drain, size_t round, uint64_t piece_bytes,
                                    bool durable) {
  ShardFile* const shard = round_at(round)->shards.at(drain).get();
  SealedShard sealed;
  sealed.file = shard->name();
  sealed.bytes = shard->bytes();
  sealed.direct = shard->direct();
  sealed.io_reason = shard->io_reason();
  shard->cut();
  auto start = Clock::now();
  if (durable) {
    shard->sync();
    sealed.sync_us = microseconds_since(start);
  }
  if (piece_bytes > 0) {
    start = Clock::now();
    sealed.crcs = shard->checksum(piece_bytes);
    sealed.checksum_us = microseconds_since(start);
  }
  return sealed;
}

}  // namespace sluice
