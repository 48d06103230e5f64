// Packs runs of pages into slots: gathers runs until a slot is full, feeds them, hands the slot on.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/page_ranges.h"
#include "pipe/feed.h"
#include "pipe/slot.h"

namespace sluice {

class Chunker {
 public:
  using TakeSlot = std::function<Slot*()>;
  using GiveSlot = std::function<void(Slot*)>;
  using LeftOut = std::function<void(PageRange)>;

  // `take` waits for an empty slot, `give` hands on a filled one; `left_out` is told of pages that
  // nothing can read. `forced` reads what `ordinary` may not.
  Chunker(pid_t pid, Feed* ordinary, Feed* forced, TakeSlot take, GiveSlot give, LeftOut left_out)
      : pid_(pid),
        ordinary_(ordinary),
        forced_(forced),
        take_(std::move(take)),
        give_(std::move(give)),
        left_out_(std::move(left_out)) {}

  void add(PageRange run, bool forced);
  // Feeds and hands on what is left.
  void finish();

 private:
  void flush();
  void feed_batch(Feed* feed);
  void feed_unreadable(PageRange page);
  void need_room();
  void hand_on();

  pid_t pid_;
  Feed* ordinary_;
  Feed* forced_;
  TakeSlot take_;
  GiveSlot give_;
  LeftOut left_out_;
  Slot* slot_ = nullptr;
  std::vector<PageRange> batch_;
  uint64_t batch_bytes_ = 0;
  bool batch_forced_ = false;
};

}  // namespace sluice
