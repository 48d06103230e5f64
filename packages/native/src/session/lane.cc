#include "session/lane.h"

#include <fcntl.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "kernel/urgent.h"
#include "target/code_search.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kAttachLimit{500};

// The target itself is at fault, so reading from outside would fail as well.
bool is_about_target(const Error& error) {
  return error.is("TARGET_EXITED") || error.is("NO_SUCH_PROCESS") || error.is("PERMISSION") ||
         error.is("ALREADY_TRACED") || error.is("FREEZE_LIMIT");
}

}  // namespace

bool Lane::uses_vmsplice() const { return helper_ && options_.mode != CaptureMode::kRead; }

LaneAttached Lane::attach() {
  LaneAttached attached;
  tracer_ = std::make_unique<TracerTask>(&limit_);
  memory_ = std::make_unique<TargetMemory>(options_.pid);
  scan_ = PageScan::open(options_.pid);
  if (options_.mode != CaptureMode::kRead || options_.wants_helper) {
    try {
      if (options_.freeze_limit_ms > 0) {
        limit_.set(Clock::now() + std::chrono::milliseconds(options_.freeze_limit_ms));
      }
      tracer_->run([&] { start_helper(&attached); });
      limit_.clear();
      return attached;
    } catch (const Error& error) {
      limit_.clear();
      cut_off_ = !tracer_->alive();
      // Whatever a failed attempt still traces is let go by the end of the tracer task.
      tracer_ = std::make_unique<TracerTask>(&limit_);
      const bool must = options_.mode == CaptureMode::kVmsplice;
      if (is_about_target(error) || (must && error.is("FREEZE_TIMEOUT"))) {
        throw;
      }
      if (must) {
        throw Error("CAPTURE_UNAVAILABLE", options_.pid, error.call().c_str(), error.err(),
                    error.detail());
      }
      attached = LaneAttached{};
      attached.fallback_reason = error.what();
    }
  }
  slots_.clear();
  make_slots();
  return attached;
}

void Lane::start_helper(LaneAttached* attached) {
  require_memory_for_helper(options_.pid);
  const auto maps = read_maps(options_.pid);
  const auto gadgets = find_gadgets(*memory_, maps);
  auto thread = options_.target->stop_thread(*memory_, gadgets, maps, Clock::now() + kAttachLimit);
  if (options_.index == 0) {
    const auto left = remove_remains(thread.get(), find_remains(*memory_, maps));
    remains_.insert(remains_.end(), left.begin(), left.end());
  }
  helper_ =
      Helper::start(std::move(thread), *memory_, gadgets, maps, &attached->stopped_us, &remains_);
  try {
    make_slots();
    if (options_.index == 0) {
      signal_actions_ = sluice::signal_actions(helper_.get());
    }
  } catch (...) {
    remains_.push_back(helper_->end());
    helper_.reset();
    throw;
  }
  attached->with_helper = uses_vmsplice();
}

void Lane::make_slots() {
  for (size_t i = 0; i < options_.slots; ++i) {
    auto slot = std::make_unique<Slot>();
    slot->lane = options_.index;
    if (helper_) {
      try {
        HelperPipe pipe = helper_->make_pipe();
        slot->read_end = std::move(pipe.read_end);
        slot->write_end = std::move(pipe.write_end);
        slot->helper_fd = pipe.helper_fd;
      } catch (const Error&) {
        if (slots_.empty()) {
          throw;
        }
        return;  // fewer will do, where the target's limit on descriptors is low
      }
    } else {
      int fds[2] = {-1, -1};
      const long result = sys::call(SYS_pipe2, fds, O_CLOEXEC);
      if (result < 0 && slots_.empty()) {
        throw Error("SYSTEM", options_.pid, "pipe2", static_cast<int>(-result),
                    "no pipe could be made");
      }
      if (result < 0) {
        return;
      }
      slot->read_end.reset(fds[0]);
      slot->write_end.reset(fds[1]);
    }
    slot->capacity = set_pipe_capacity(slot->read_end.get(), options_.slot_bytes);
    slots_.push_back(std::move(slot));
  }
}

ScopedFd Lane::make_userfaultfd() {
  if (!helper_) {
    throw Error("INJECTION", options_.pid, "", 0, "there is no helper in it to make one");
  }
  return tracer_->run([&] { return helper_->make_userfaultfd(); });
}

std::span<const std::unique_ptr<Slot>> Lane::part(Slots slots) const {
  const std::span all(slots_);
  if (all.size() < slots.parts) {
    return all;
  }
  const size_t first = all.size() * slots.part / slots.parts;
  return all.subspan(first, all.size() * (slots.part + 1) / slots.parts - first);
}

void Lane::make_room(const RoundWork& work, Slots slots) {
  uint64_t left = work.copy ? work.copy_bytes : 0;
  for (const auto& slot : part(slots)) {
    const uint64_t bytes = std::min(left, slot->capacity);
    slot->buffer.touch(bytes, slot->capacity);
    left -= bytes;
  }
}

void Lane::capture(const RoundWork& work, const PageRange& share, Slots slots, Exchange* exchange,
                   LaneRound* round) {
  round_ = round;
  limit_.clear();  // of a round that failed
  try {
    // What is in a pipe by reference must not come to the shard after the target was frozen and has
    // gone on: it would be newer than the freeze.
    copies_ = work.copy || !slots.last() || !uses_vmsplice();
    auto used = part(slots);
    if (copies_ && !work.copy && slots.last()) {
      used = used.first(std::min(used.size(), options_.read_slots));
    }
    if (slots.part == 0) {
      // Also those that were given away before others failed. Later no drain may be disturbed.
      for (const auto& slot : slots_) {
        if (failed_ || slot->bytes > 0) {
          slot->discard();
        }
      }
      failed_ = false;
    }
    for (const auto& slot : used) {
      slot->copied = copies_;
      exchange->add_empty_slot(slot.get());
    }
    tracer_->run([&] {
      // Copying needs nobody else, and the target waits for it.
      const Urgent urgent(work.copy && work.kind == RoundKind::kFinal);
      exchange->lane_wait_gate();
      feed_share(work, share, exchange);
    });
    if (work.twinning != nullptr && work.twinning->twin) {
      tracer_->run([&] { feed_from_twin(*work.twinning->twin, exchange); });
    }
    exchange->lane_done();
    if (twin_) {
      exchange->wait_lanes(false);
      end_twin();
    }
    if (slots.last() || slots_.size() < slots.parts) {
      // The next round may begin at once, and uses the same slots.
      if (!slots.last()) {
        exchange->open_gate();  // drains that were to wait for the end of that round
      }
      exchange->wait_empty(options_.index);
    }
  } catch (...) {
    failed_ = true;
    exchange->fail();
    limit_.clear();
    end_twin();
    throw;
  }
}

void Lane::feed_share(const RoundWork& work, PageRange share, Exchange* exchange) {
  std::unique_ptr<Feed> ordinary;
  if (copies_) {
    ordinary = std::make_unique<ReadFeed>(options_.pid);
  } else {
    ordinary = std::make_unique<VmspliceFeed>(helper_.get());
  }
  ForcedFeed forced(memory_.get());
  Chunker chunker = chunker_of(options_.pid, ordinary.get(), &forced, exchange);
  if (work.twinning != nullptr) {
    feed_deferring(work, share, exchange, &chunker);
  } else {
    for (const CaptureItem& item : work.plan.items) {
      const PageRange part = intersect(item.range, share);
      if (!part.empty()) {
        feed_item(work, part, item, &chunker);
      }
    }
  }
  chunker.finish();
  // Last, because it waits for the other lanes' looks at the page tables.
  if (helper_ && options_.wants_program_break && work.kind != RoundKind::kLive) {
    round_->program_break = program_break(helper_.get());
  }
  if (work.twinning != nullptr) {
    exchange->reach(Mark::kSecured);
  }
}

Chunker Lane::chunker_of(pid_t pid, Feed* ordinary, Feed* forced, Exchange* exchange) {
  const auto give = [this, exchange](Slot* slot) {
    pages_captured_.fetch_add(slot->bytes / kPageBytes, std::memory_order_relaxed);
    exchange->give_filled(slot);
  };
  return Chunker(
      pid, ordinary, forced, [this, exchange] { return exchange->take_empty(options_.index); },
      give, [this](PageRange page) { append_range(&round_->left_out, page); });
}

void Lane::feed_item(const RoundWork& work, PageRange part, const CaptureItem& item,
                     Chunker* chunker) {
  const auto take = [&](PageRange run) { chunker->add(run, item.forced); };
  if (work.kind != RoundKind::kLive) {
    take_tracked(work, part, item, take);
  } else if (item.constant) {
    append_range(&round_->collected, part);
    take_all(part, item, take);
  } else if (item.trackable) {
    for (const PageRange& range : subtracted({part}, work.owed)) {
      collect(range, Wanted::kWritten, item, chunker);
    }
    for (const PageRange& range : intersected({part}, work.owed)) {
      collect(range, Wanted::kAll, item, chunker);
    }
  }
}

// Under freeze: what the tracker tells, where it can tell.
void Lane::take_tracked(const RoundWork& work, PageRange part, const CaptureItem& item,
                        const Take& take) {
  if (work.kind == RoundKind::kFinal && item.trackable) {
    look(part, item, work.owed, take);
  } else {
    take_all(part, item, take);
  }
}

void Lane::take_all(PageRange range, const CaptureItem& item, const Take& take) {
  if (!item.filter) {
    take(range);
    return;
  }
  scan_->scan(range, *item.filter, [&](PageRange run) {
    take(run);
    return true;
  });
}

// Dirty pages have an owner: at any moment of this, those that were collected and may not be
// captured are in `round_`, and go to the next round if this one fails.
void Lane::collect(PageRange range, Wanted wanted, const CaptureItem& item, Chunker* chunker) {
  const size_t owed = round_->owed.size();
  round_->owed.push_back(range);
  const auto start = Clock::now();
  double feeding_us = 0;
  const uint64_t end = tracker_scan_->collect(range, *item.filter, wanted, [&](PageRange run) {
    append_range(&round_->collected, run);
    round_->owed[owed].start = run.end;
    steps::at(steps::Step::kPagesCollected);
    const auto found = Clock::now();
    chunker->add(run, item.forced);
    feeding_us += microseconds_since(found);
  });
  round_->owed[owed].start = end;
  round_->scan_us += microseconds_since(start) - feeding_us;
}

void Lane::look(PageRange range, const CaptureItem& item, const PageRanges& owed,
                const Take& take) {
  for (const PageRange& part : intersected({range}, owed)) {
    take_all(part, item, take);
  }
  for (const PageRange& part : subtracted({range}, owed)) {
    const auto start = Clock::now();
    const size_t before = round_->look.written.size();
    const bool watched = tracker_scan_->look(part, *item.filter, &round_->look);
    round_->scan_us += microseconds_since(start);
    if (!watched) {
      take_all(part, item, take);
      continue;
    }
    round_->looked.push_back(part);
    for (size_t i = before; i < round_->look.written.size(); ++i) {
      take(round_->look.written[i]);
    }
  }
}

void Lane::detach() {
  if (!tracer_) {
    return;
  }
  limit_.clear();
  if (helper_) {
    try {
      tracer_->run([&] { remains_.push_back(helper_->end()); });
    } catch (const Error&) {
      // Its tracer task was ended, and took it along.
      remains_.push_back({helper_->pid(), helper_->scratch()});
    }
    helper_.reset();
  }
  slots_.clear();
  tracker_scan_.reset();
  tracer_.reset();
}

}  // namespace sluice
