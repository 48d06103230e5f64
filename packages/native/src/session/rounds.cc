// The rounds of a DumpSession: what is taken when.
#include <signal.h>

#include <optional>
#include <utility>

#include "kernel/control_group.h"
#include "kernel/proc_rings.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "kernel/urgent.h"
#include "session/dump_session.h"

namespace sluice {

void DumpSession::control_capture(size_t first, size_t last, After after) {
  try {
    tracer_->run([&] {
      Round* live = nullptr;
      for (size_t number = first; number <= last; ++number) {
        Round* const round = round_at(number);
        // The drains may still be busy with the round before: it need not be waited for.
        round->exchange.wait_ready(live == nullptr);
        if (live != nullptr) {
          round->exchange.follow(&live->exchange);
        }
        if (round->work.kind == RoundKind::kLive) {
          const bool copied = number < last && round_at(last)->work.copy;
          capture_live(round, live, !(copied && after == After::kResume));
          live = round;
        } else {
          capture_frozen(round, live, last - first + 1, after);
        }
      }
      for (size_t number = first; number <= last; ++number) {
        if (Round* const round = round_at(number); round->work.kind == RoundKind::kLive) {
          settle_live(round);
        }
      }
    });
  } catch (...) {
    fail_rounds(first, last);
    if (frozen_.load(std::memory_order_relaxed)) {
      // What could not be stopped cannot be detached; the end of the tracer task lets it go.
      tracer_.reset();
      limit_.clear();
      frozen_.store(false, std::memory_order_relaxed);
    }
    end_hung_lanes();
    throw;
  }
}

// Of rounds that are taken in one go: nobody may wait in a later one for somebody who gave up in an
// earlier one.
void DumpSession::fail_rounds(size_t first, size_t last) {
  for (size_t number = first; number <= last; ++number) {
    round_at(number)->exchange.fail();
  }
}

// `before`: the live round right before it, which is not settled yet. `drains_too`: else they begin
// when a lane has no slots left. What it copied can wait until the freeze is over, which should not
// come later for them.
void DumpSession::capture_live(Round* round, const Round* before, bool drains_too) {
  round->owes = true;
  if (before != nullptr) {
    round->work.owed = before->owed;
  }
  if (tracker_->resets_at_once()) {
    reset_frozen(round);
  }
  round->opened = Clock::now();
  round->exchange.when_stalled([pid = options_.pid] {
    if (const auto frozen = frozen_group(pid)) {
      throw Error("FREEZE_TIMEOUT", pid, "", 0,
                  "its control group was frozen while it was dumped (" + frozen->directory +
                      "), and the helpers in it stand still with it");
    }
  });
  round->exchange.open_gate(drains_too);
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
  round->chain = united(subtracted(before != nullptr ? before->chain : chain_, round->work.owed),
                        subtracted(normalised(std::move(collected)), round->owed));
}

std::unique_ptr<Freeze> DumpSession::freeze_target(Exchange* exchange) {
  const auto limit = std::chrono::milliseconds(options_.freeze_timeout_ms);
  const auto patience = [&] {
    return Patience{Clock::now() + limit, [&] {
                      exchange->check();
                      if (limit_.passed()) {
                        throw Error("FREEZE_LIMIT", options_.pid, "", 0,
                                    "its threads did not stand still within the limit of a freeze");
                      }
                    }};
  };
  wait_until_stoppable(options_.pid, patience());
  frozen_.store(true, std::memory_order_relaxed);
  if (options_.freeze_limit_ms > 0) {
    const auto ends = Clock::now() + std::chrono::milliseconds(options_.freeze_limit_ms);
    limit_.set(ends);
    exchange->limit_freeze(ends);
  }
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

// `live`: the round right before it, which is not settled yet, of `parts` that share the slots.
void DumpSession::capture_frozen(Round* round, const Round* live, size_t parts, After after) {
  const PageRanges& owed = live != nullptr ? live->owed : owed_;
  Exchange* const exchange = &round->exchange;
  RoundWork* const work = &round->work;
  RoundResult* const result = &round->result;
  if (work->twinning != nullptr) {
    const uint64_t pages = options_.budget_bytes / kPageBytes;
    round->twinning.costs.room_pages = pages / parts;
    round->twinning.costs.pending_pages = pages - pages / parts;
  }
  auto freeze = freeze_target(exchange);
  const bool goes_on = after == After::kResume;
  const bool goes_on_early = goes_on && work->copy;  // before the drains are done
  std::optional<Urgent> urgent(std::in_place, goes_on_early);
  require_same_program();
  // What the kernel may have written past the page tables is taken whatever the tracker says.
  work->pinned = rings_.empty() ? PageRanges{} : registered_buffers(options_.pid, rings_);
  work->owed = united(owed, work->pinned);
  work->plan = make_plan(options_.pid, &files_, scratches(), Ask::kNo);
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
  steps::at(steps::Step::kPagesTaken);
  const auto thaw = [&] {
    freeze->thaw();
    limit_.clear();
    frozen_.store(false, std::memory_order_relaxed);
  };
  const auto read_other_descriptors = [&] {
    if (result->process) {
      add_descriptors(options_.pid, &result->process->files);
    }
  };
  if (goes_on_early) {
    thaw();
    // First of all: the kernel gives the CPU to a thread of the target here that it woke on it, and
    // not to a drain, for which that thread would wait some milliseconds more.
    urgent.reset();
    exchange->reach(Mark::kThawed);
    exchange->open_gate();
    read_other_descriptors();
    note_vm_flags(round);
  } else if (!goes_on) {
    note_vm_flags(round);
  }
  exchange->wait_drains(frozen_);
  result->memwrite_us = microseconds_since(opened);
  if (goes_on && !goes_on_early) {
    thaw();
    note_vm_flags(round);
  }
  if (!goes_on_early) {
    read_other_descriptors();
  }
  result->freezing_us = freeze->freezing_us();
  result->frozen_us = freeze->frozen_us();
  note_consistency(round);
  if (!goes_on) {
    freeze_ = std::move(freeze);
    steps::at(steps::Step::kHeld);
  }
}

double DumpSession::control_release(Release how) {
  try {
    return tracer_->run([&] {
      limit_.clear();
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
  } catch (const Error&) {
    // The tracer task has ended, and thereby let it go.
    if (freeze_) {
      freeze_->abandon();
      freeze_.reset();
    }
    frozen_.store(false, std::memory_order_relaxed);
    throw;
  }
}

void DumpSession::control_require_held() {
  if (!tracer_->alive()) {
    control_release(Release::kResume);
  }
}

void DumpSession::lane_capture(size_t lane, size_t first, size_t last) {
  const auto slots_of = [&](size_t number) {
    return Lane::Slots{number - first, last - first + 1};
  };
  try {
    // Beforehand: between two rounds that follow each other, nothing should take time.
    for (size_t number = first; number <= last; ++number) {
      lanes_.at(lane)->make_room(round_at(number)->work, slots_of(number));
    }
    for (size_t number = first; number <= last; ++number) {
      Round* const round = round_at(number);
      lanes_.at(lane)->capture(round->work, round->shares.at(lane), slots_of(number),
                               &round->exchange, &round->lanes.at(lane));
    }
  } catch (...) {
    fail_rounds(first, last);
    throw;
  }
}

}  // namespace sluice
