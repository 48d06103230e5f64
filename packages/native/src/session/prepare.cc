// How a round of a DumpSession begins: what there is to be taken, and by whom.
#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "kernel/proc_rings.h"
#include "pages/scan_calls.h"
#include "session/dump_session.h"

namespace sluice {
namespace {

// Pages after which the survey closes an item: fine enough to cut the address space evenly.
constexpr uint64_t kPagesPerItem = 1024;
// Looking at so many takes 2 to 3 ms.
constexpr size_t kMostFrozenDescriptors = 512;
// For a lane to notice that the dump was given up.
constexpr std::chrono::seconds kHangLimit{2};

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

// Where no page is missing, so that nothing is reserved that would else be a hole.
PageRanges dense_parts(const std::vector<SurveyItem>& items) {
  PageRanges parts;
  for (const SurveyItem& item : items) {
    if (item.pages == item.range.pages()) {
      append_range(&parts, item.range);
    }
  }
  return parts;
}

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
  end_hung_lanes();
}

// Whatever they wait for that is not ours (a page that another process is to serve, a disk): it is
// not waited for. Their helpers and the twin go with their tracer tasks.
void DumpSession::end_hung_lanes() {
  for (const auto& lane : lanes_) {
    lane->end_work_at(Clock::now() + kHangLimit);
  }
}

void DumpSession::set_cuts(size_t round, const std::vector<uint64_t>& cuts) {
  if (cuts.size() != options_.lanes - 1 || !std::is_sorted(cuts.begin(), cuts.end()) ||
      std::any_of(cuts.begin(), cuts.end(), [](uint64_t cut) { return cut % kPageBytes != 0; })) {
    throw Error("OPTION", options_.pid, "", 0, "the cuts do not divide the address space");
  }
  std::vector<PageRange> shares;
  uint64_t start = 0;
  // No two lanes protect parts of one huge page.
  std::optional<ScanCalls> calls;
  if (tracker_ != nullptr && tracker_->mode() == TrackerMode::kUffdWp) {
    calls.emplace(options_.pid);
  }
  for (uint64_t cut : cuts) {
    if (calls && calls->is_huge(cut)) {
      cut -= cut % kHugePageBytes;
    }
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
    tracer_ = std::make_unique<TracerTask>(&limit_);
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
  files_.learn();
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
  round->work.plan = make_plan(options_.pid, &files_, scratches(), Ask::kYes);
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
  if (places_) {
    places_->learn(mappings_of(round->work.plan));
    places_->expect(dense_parts(*items));
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

size_t DumpSession::control_repeat(size_t live) {
  const Round* const before = round_at(live);
  size_t number = 0;
  Round* const round = add_round(&number);
  round->exchange.check();
  round->result.kind = RoundKind::kLive;
  round->work = before->work;
  round->shares = before->shares;
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

}  // namespace sluice
