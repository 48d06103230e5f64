// The part of a lane in a round that may make a twin: under freeze it only looks which pages are to
// be taken, and copies them if that is sooner done than making a twin.
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "session/lane.h"

namespace sluice {

void Lane::feed_deferring(const RoundWork& work, PageRange share, Exchange* exchange,
                          Chunker* chunker) {
  Twinning* const twinning = work.twinning;
  defer(work, share, exchange);
  if (options_.index == 0) {
    exchange->wait_mark(Mark::kChosen);
    if (twinning->choice.twin) {
      make_twin(twinning);
      exchange->reach(Mark::kTwinTried);
    }
  }
  for (const CaptureItem& item : work.plan.items) {
    const PageRange part = intersect(item.range, share);
    if (!item.trackable && !part.empty()) {
      take_all(part, item, [&](PageRange run) { chunker->add(run, item.forced); });
    }
  }
  exchange->wait_mark(Mark::kTwinTried);
  Twin* const twin = twinning->twin.get();
  for (Deferred& deferred : deferred_) {
    const uint64_t first = deferred.runs.front().start;
    const bool copied = twin != nullptr && twin->has({first, first + kPageBytes}, deferred.filter);
    const PageRanges now = copied ? intersected(deferred.runs, work.pinned) : deferred.runs;
    deferred.runs = subtracted(deferred.runs, now);
    for (const PageRange& run : now) {
      chunker->add(run, deferred.forced);
    }
  }
}

void Lane::defer(const RoundWork& work, PageRange share, Exchange* exchange) {
  Twinning* const twinning = work.twinning;
  deferred_.clear();
  uint64_t pages = 0;
  for (const CaptureItem& item : work.plan.items) {
    const PageRange part = intersect(item.range, share);
    if (!item.trackable || part.empty()) {
      continue;
    }
    Deferred deferred{*item.filter, item.forced, {}};
    take_tracked(work, part, item, [&](PageRange run) { deferred.runs.push_back(run); });
    if (!deferred.runs.empty()) {
      deferred.runs = normalised(std::move(deferred.runs));
      pages += pages_of(deferred.runs);
      deferred_.push_back(std::move(deferred));
    }
  }
  twinning->pages += pages;
  if (exchange->reach(Mark::kLooked)) {
    twinning->choice = choose_consistency(twinning->costs, twinning->pages);
    exchange->reach(Mark::kChosen);
    if (!twinning->choice.twin) {
      exchange->reach(Mark::kTwinTried);
    }
  }
}

void Lane::make_twin(Twinning* twinning) {
  try {
    twin_ = Twin::make(helper_.get(), options_.pid, &remains_);
    twinning->twin = twin_;
  } catch (const Error& error) {
    twinning->failure = error.what();
  }
}

void Lane::feed_from_twin(const Twin& twin, Exchange* exchange) {
  exchange->wait_mark(Mark::kThawed);
  if (twin_) {
    twin_->give_way();
  }
  ReadFeed ordinary(twin.pid());
  ForcedFeed forced(&twin.memory());
  Chunker chunker = chunker_of(options_.pid, &ordinary, &forced, exchange);
  try {
    for (const Deferred& deferred : deferred_) {
      for (const PageRange& run : deferred.runs) {
        chunker.add(run, deferred.forced);
      }
    }
    chunker.finish();
  } catch (const Error&) {
    // Whoever gave up has ended the twin.
    exchange->check();
    if (twin.stands()) {
      throw;
    }
  }
  // The memory of one that is killed for want of memory is taken away before it is gone.
  if (!twin.stands()) {
    throw Error(
        "SYSTEM", options_.pid, "process_vm_readv", ESRCH,
        "its copy-on-write twin was killed while it was read; if memory ran out, dump it by "
        "copying");
  }
}

void Lane::end_twin() {
  // It has died with its tracer, if that has.
  if (const auto twin = std::exchange(twin_, nullptr); twin && tracer_->alive()) {
    tracer_->run([&] { twin->end(); });
  }
}

}  // namespace sluice
