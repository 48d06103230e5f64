// The rounds of a DumpSession: what is taken when, and what is known of it afterwards.
#include <signal.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "kernel/proc_rings.h"
#include "kernel/syscalls.h"
#include "kernel/urgent.h"
#include "session/dump_session.h"

namespace sluice {
namespace {

// Pages after which the survey closes an item: fine enough to cut the address space evenly.
constexpr uint64_t kPagesPerItem = 1024;
// Looking at so many takes 2 to 3 ms.
constexpr size_t kMostFrozenDescriptors = 512;

constexpr char kUnreadable[] =
    "could not be read: a guard page, device memory, or memory with a hardware error";

constexpr char kAio[] =
    "it does asynchronous I/O (io_setup(2)): no tracker sees what the kernel reads into its memory "
    "during rounds";

// Gathers runs of pages into items.
class SurveyMaker {
 public:
  explicit SurveyMaker(std::vector<SurveyItem>* items) : items_(items) {}
  void add(PageRange run) {
    if (item_.pages == 0) {
      item_.range.start = run.start;
    }
    item_.range.end = run.end;
    item_.pages += run.pages();
    ++item_.runs;
    if (item_.pages >= kPagesPerItem) {
      close();
    }
  }
  void close() {
    if (item_.pages > 0) {
      items_->push_back(item_);
    }
    item_ = SurveyItem{};
  }

 private:
  std::vector<SurveyItem>* items_;
  SurveyItem item_;
};

void append_all(PageRanges* all, const PageRanges& more) {
  all->insert(all->end(), more.begin(), more.end());
}

bool does_aio(const PlannedVma& vma) { return vma.mapping.path.starts_with("/[aio]"); }

std::vector<Mapping> trackable_mappings(const CapturePlan& plan) {
  std::vector<Mapping> mappings;
  for (const PlannedVma& vma : plan.vmas) {
    if (vma.kind == VmaKind::kAnonymous || vma.kind == VmaKind::kPrivateFile) {
      mappings.push_back(vma.mapping);
    }
  }
  return mappings;
}

}  // namespace

DumpSession::Round* DumpSession::add_round(size_t* number) {
  auto made = std::make_unique<Round>(options_.lanes, options_.drains);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_) {
    made->exchange.fail();
  }
  *number = rounds_.size();
  rounds_.push_back(std::move(made));
  return rounds_.back().get();
}

DumpSession::Round* DumpSession::round_at(size_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return rounds_.at(number).get();
}

void DumpSession::cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  for (const auto& round : rounds_) {
    round->exchange.fail();
  }
}

void DumpSession::set_cuts(size_t round, const std::vector<uint64_t>& cuts) {
  if (cuts.size() != options_.lanes - 1 || !std::is_sorted(cuts.begin(), cuts.end()) ||
      std::any_of(cuts.begin(), cuts.end(), [](uint64_t cut) { return cut % kPageBytes != 0; })) {
    throw Error("OPTION", options_.pid, "", 0, "the cuts do not divide the address space");
  }
  std::vector<PageRange> shares;
  uint64_t start = 0;
  for (const uint64_t cut : cuts) {
    shares.push_back({start, cut});
    start = cut;
  }
  shares.push_back({start, kAddressSpaceEnd});
  round_at(round)->shares = std::move(shares);
}

void DumpSession::take_over_owed() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& round : rounds_) {
    if (!std::exchange(round->owes, false)) {
      continue;
    }
    append_all(&owed_, round->reset);
    for (const LaneRound& lane : round->lanes) {
      append_all(&owed_, lane.collected);
      append_all(&owed_, lane.owed);
    }
  }
  owed_ = normalised(std::move(owed_));
}

size_t DumpSession::control_prepare(RoundKind kind, std::vector<SurveyItem>* items, bool copy,
                                    uint64_t copy_pages) {
  if (!tracer_) {
    tracer_ = std::make_unique<TracerTask>();
  }
  take_over_owed();
  size_t number = 0;
  Round* const round = add_round(&number);
  round->exchange.check();
  round->result.kind = kind;
  round->work.kind = kind;
  round->work.copy = copy;
  round->work.copy_bytes = copy_pages * kPageBytes / options_.lanes;
  set_cuts(number, std::vector<uint64_t>(options_.lanes - 1, kAddressSpaceEnd));
  if (kind != RoundKind::kLive) {
    open_files_ = descriptors_of_files(options_.pid, kMostFrozenDescriptors);
  }
  if (kind == RoundKind::kFinal) {
    prepare_twin(round);
    rings_ = list_rings(options_.pid);
    return number;
  }
  if (vm_flags_.empty()) {
    vm_flags_ = read_vm_flags(options_.pid);
  }
  round->work.owed = owed_;
  round->work.plan = make_plan(options_.pid, &files_, scratches());
  std::erase_if(round->work.plan.items, [&](const CaptureItem& item) {
    const bool known = subtracted({item.range}, chain_).empty();
    return kind == RoundKind::kLive && item.constant && (!options_.hand_over || known);
  });
  const auto pages = PageScan::open(options_.pid);
  std::unique_ptr<TrackerScan> written;
  if (kind == RoundKind::kLive) {
    require_same_program();
    tracker_->watch(trackable_mappings(round->work.plan));
    written = tracker_->scan();
  }
  for (const CaptureItem& item : round->work.plan.items) {
    add_to_survey(*round, item, pages.get(), written.get(), items);
  }
  measure_costs(round->work.plan);
  prepare_twin(round);
  if (kind == RoundKind::kWhole && copy) {
    for (const SurveyItem& item : *items) {
      copy_pages += item.pages;
    }
    const bool twin = choose_consistency(round->twinning.costs, copy_pages).twin;
    round->work.copy_bytes = twin ? 0 : copy_pages * kPageBytes / options_.lanes;
  }
  return number;
}

// `written` only for a live round.
void DumpSession::add_to_survey(const Round& round, const CaptureItem& item, PageScan* pages,
                                TrackerScan* written, std::vector<SurveyItem>* items) const {
  SurveyMaker maker(items);
  const auto add = [&](PageRange run) {
    maker.add(run);
    return true;
  };
  if (written == nullptr) {
    if (item.filter) {
      pages->scan(item.range, *item.filter, add);
    } else {
      maker.add(item.range);
    }
  } else if (item.constant) {
    maker.add(item.range);
  } else if (item.trackable) {
    for (const PageRange& part : subtracted({item.range}, round.work.owed)) {
      written->count(part, *item.filter, add);
    }
    for (const PageRange& part : intersected({item.range}, round.work.owed)) {
      pages->scan(part, *item.filter, add);
    }
  }
  maker.close();
}

void DumpSession::control_capture(size_t first, size_t last, After after) {
  try {
    tracer_->run([&] {
      Round* live = nullptr;
      for (size_t number = first; number <= last; ++number) {
        Round* const round = round_at(number);
        if (round->work.kind == RoundKind::kLive) {
          round->exchange.wait_ready();
          capture_live(round);
          live = round;
        } else {
          // The drains may still be busy with the round before: the freeze need not wait for that.
          round->exchange.wait_ready(live == nullptr);
          capture_frozen(round, live, after);
        }
      }
      if (live != nullptr) {
        settle_live(live);
      }
    });
  } catch (...) {
    for (size_t number = first; number <= last; ++number) {
      round_at(number)->exchange.fail();
    }
    if (frozen_.exchange(false)) {
      // What could not be stopped cannot be detached; the end of the tracer task lets it go.
      tracer_.reset();
    }
    throw;
  }
}

void DumpSession::capture_live(Round* round) {
  round->owes = true;
  if (tracker_->resets_at_once()) {
    reset_frozen(round);
  }
  round->opened = Clock::now();
  round->exchange.open_gate();
  round->exchange.wait_lanes(false);
  round->result.memdump_us = microseconds_since(round->opened);
  PageRanges collected;
  for (const LaneRound& lane : round->lanes) {
    append_all(&collected, lane.collected);
    append_all(&round->owed, lane.owed);
    append_all(&round->owed, lane.left_out);
  }
  round->owed = normalised(std::move(round->owed));
  // What older rounds hold of pages that were owed is out of date, though nothing may tell: such a
  // page was write-protected without being captured, and keeps the protection when the kernel puts
  // the zero page in its place, as it does where a huge page is split.
  round->chain = united(subtracted(chain_, round->work.owed),
                        subtracted(normalised(std::move(collected)), round->owed));
}

std::unique_ptr<Freeze> DumpSession::freeze_target(Exchange* exchange) {
  const auto limit = std::chrono::milliseconds(options_.freeze_timeout_ms);
  const auto patience = [&] { return Patience{Clock::now() + limit, [&] { exchange->check(); }}; };
  wait_until_stoppable(options_.pid, patience());
  frozen_.store(true, std::memory_order_relaxed);
  return std::make_unique<Freeze>(options_.pid, tracer_->pid(), patience());
}

void DumpSession::settle_live(Round* round) {
  round->exchange.wait_drains(false);
  round->result.memwrite_us = microseconds_since(round->opened);
  note_drain_rate(*round);
  chain_ = std::move(round->chain);
  if (options_.hand_over) {
    round->result.covered = chain_;
  }
  owed_ = std::move(round->owed);
  round->owes = false;
}

// `live`: the round right before it, which is not settled yet.
void DumpSession::capture_frozen(Round* round, const Round* live, After after) {
  const PageRanges& owed = live != nullptr ? live->owed : owed_;
  Exchange* const exchange = &round->exchange;
  RoundWork* const work = &round->work;
  RoundResult* const result = &round->result;
  if (work->twinning != nullptr) {
    // A round right behind a live one has half of the slots.
    const uint64_t slots_bytes = options_.budget_bytes / (live != nullptr ? 2 : 1);
    round->twinning.costs.room_pages = slots_bytes / kPageBytes;
    round->twinning.costs.pending_pages = live != nullptr ? slots_bytes / kPageBytes : 0;
  }
  auto freeze = freeze_target(exchange);
  const bool goes_on = after == After::kResume;
  const bool goes_on_early = goes_on && work->copy;  // before the drains are done
  std::optional<Urgent> urgent(std::in_place, goes_on_early);
  require_same_program();
  // What the kernel may have written past the page tables is taken whatever the tracker says.
  work->pinned = rings_.empty() ? PageRanges{} : registered_buffers(options_.pid, rings_);
  work->owed = united(owed, work->pinned);
  work->plan = make_plan(options_.pid, &files_, scratches());
  const auto opened = Clock::now();
  exchange->open_gate(!goes_on_early);
  result->threads = freeze->thread_states();
  if (auto state = read_process_state(options_.pid)) {
    result->process.emplace().state = std::move(*state);
    // While lanes are at work as well. Where files stand belongs to the memory.
    result->process->files = read_process_files(options_.pid, open_files_);
  }
  if (work->twinning != nullptr) {
    exchange->wait_secured();
  } else {
    exchange->wait_lanes(true);
  }
  result->memdump_us = microseconds_since(opened);
  const auto thaw = [&] {
    freeze->thaw();
    frozen_.store(false, std::memory_order_relaxed);
  };
  const auto read_other_descriptors = [&] {
    if (result->process) {
      add_descriptors(options_.pid, &result->process->files);
    }
  };
  if (goes_on_early) {
    thaw();
    exchange->reach(Mark::kThawed);
    exchange->open_gate();
    urgent.reset();
    read_other_descriptors();
  }
  exchange->wait_drains(frozen_);
  result->memwrite_us = microseconds_since(opened);
  if (goes_on && !goes_on_early) {
    thaw();
  }
  if (!goes_on_early) {
    read_other_descriptors();
  }
  result->freezing_us = freeze->freezing_us();
  result->frozen_us = freeze->frozen_us();
  note_consistency(round);
  if (!goes_on) {
    freeze_ = std::move(freeze);
  }
}

double DumpSession::control_release(Release how) {
  return tracer_->run([&] {
    if (how != Release::kResume) {
      const int signal = how == Release::kKill ? SIGKILL : SIGSTOP;
      // By the pidfd where there is one: the pid may be another's by now.
      sys::call(SYS_pidfd_send_signal, target_.pidfd().get(), signal, nullptr, 0);
    }
    freeze_->thaw();
    const double frozen_us = freeze_->frozen_us();
    freeze_.reset();
    frozen_.store(false, std::memory_order_relaxed);
    return frozen_us;
  });
}

void DumpSession::lane_capture(size_t lane, size_t first, size_t last) {
  const auto slots_of = [&](size_t number) {
    return first == last    ? Lane::Slots::kAll
           : number == last ? Lane::Slots::kSecondHalf
                            : Lane::Slots::kFirstHalf;
  };
  // Beforehand: between two rounds that follow each other, nothing should take time.
  for (size_t number = first; number <= last; ++number) {
    lanes_.at(lane)->make_room(round_at(number)->work, slots_of(number));
  }
  for (size_t number = first; number <= last; ++number) {
    Round* const round = round_at(number);
    lanes_.at(lane)->capture(round->work, round->shares.at(lane), slots_of(number),
                             &round->exchange, &round->lanes.at(lane));
  }
}

void DumpSession::drain_open(size_t drain, size_t round, const std::string& dir,
                             uint64_t preallocate_bytes) {
  Round* const at = round_at(round);
  const bool moving = at->work.kind == RoundKind::kLive && moving_pages_matter_;
  at->shards.at(drain) =
      std::make_unique<ShardFile>(dir, drain, options_.io, preallocate_bytes, moving);
}

void DumpSession::drain_run(size_t drain, size_t first, size_t last) {
  for (size_t number = first; number <= last; ++number) {
    Round* const round = round_at(number);
    try {
      round->exchange.drain_wait_gate();
      ShardFile* const shard = round->shards.at(drain).get();
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
    } catch (...) {
      round->exchange.fail();
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
  result.table = make_page_table(std::move(runs), result.plan.aliases, in_parent);
  for (const PlannedVma& vma : result.plan.vmas) {
    const auto known =
        std::lower_bound(vm_flags_.begin(), vm_flags_.end(), vma.mapping.start,
                         [](const VmFlags& flags, uint64_t start) { return flags.start < start; });
    const bool same = known != vm_flags_.end() && known->start == vma.mapping.start &&
                      known->end == vma.mapping.end;
    result.vm_flags.push_back(same ? known->flags : "");
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
