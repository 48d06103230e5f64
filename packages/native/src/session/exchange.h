// Where lanes, drains and control meet in one round: the gate, the slots on their way, the end.
//
//   lanes  ──filled──▶ exchange ──▶ drains        Everybody enters before the freeze and waits at
//     ▲                                 │         the gate. Control opens it under freeze and waits
//     └────────── empty slots ──────────┘         until the last slot is drained.
//
// A failure anywhere ends everybody's waiting with CANCELLED.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "pipe/slot.h"

namespace sluice {

// Where a round that may make a twin stands under freeze, in this order.
enum class Mark {
  kLooked,     // each lane: it knows what is to be taken
  kChosen,     // once: whether a twin is to be made
  kTwinTried,  // once: there is one, or there is none
  kSecured,    // each lane: it has all for which the target must stand still
  kThawed,     // once, if there is a twin
};

class Exchange {
 public:
  Exchange(size_t lanes, size_t drains)
      : emptied_some_(lanes), empty_(lanes), slots_(lanes), lanes_(lanes), drains_(drains) {}

  // ---- anybody
  void fail();
  // Throws CANCELLED once anything failed.
  void check() const;

  // ---- before the gate
  // The drains come here only when they are done with `before`, whose gate for them opens with
  // this one at the latest.
  void follow(Exchange* before) { before_ = before; }
  void add_empty_slot(Slot* slot);
  // Waits until all others stand at the gate, or just the lanes. Throws CANCELLED.
  void wait_ready(bool drains_too = true);
  void lane_wait_gate();
  void drain_wait_gate();

  // ---- rounds that may make a twin
  // True for the last of the lanes, for a mark that each of them comes to.
  bool reach(Mark mark);
  // Waits until one has come there.
  void wait_mark(Mark mark);
  // Waits until all lanes have. Throws as wait_lanes of a frozen target.
  void wait_secured();

  // ---- control, after the gate
  // The drains' gate can be left shut, since what they do is not in a hurry while pages are copied;
  // it opens when this is called again, or when a lane has no slots left.
  void open_gate(bool drains_too = true);
  // Nobody waits for anything longer than this with a frozen target.
  void limit_freeze(std::chrono::steady_clock::time_point until);
  // To be called when nothing has moved for long while the target runs, again and again; what it
  // throws ends the wait.
  void when_stalled(std::function<void()> look) { stalled_ = std::move(look); }
  // Waits until the lanes have fed all they have. Throws CANCELLED, and with a frozen target
  // FREEZE_LIMIT, and FREEZE_TIMEOUT when nothing has moved for long: what is captured may depend
  // on the target itself (its own userfaultfd or file server), and then only thawing it helps.
  void wait_lanes(bool frozen);
  // Waits until every slot is drained. Throws the same.
  void wait_drains(bool frozen);

  // ---- lanes
  Slot* take_empty(size_t lane);
  void give_filled(Slot* slot);
  void lane_done();
  // Waits until all slots of the lane are empty again. Throws CANCELLED.
  void wait_empty(size_t lane);

  // ---- drains
  // The next filled slot; nullptr when there will be no more.
  Slot* take_filled();
  void give_empty(Slot* slot);
  void drain_done();

  uint64_t pinned_peak_bytes() const;

 private:
  void let_drains_in();
  uint64_t moves() const;
  template <typename Ready>
  void wait(std::unique_lock<std::mutex>* lock, std::condition_variable* changed, Ready ready);
  template <typename Ready>
  void wait_while_moving(bool frozen, Ready ready);
  void throw_if_over() const;

  mutable std::mutex mutex_;
  // One for each thing that is waited for: slots move thousands of times a second, and each move
  // should wake the one thread that it concerns.
  std::condition_variable progress_;
  std::condition_variable lane_gate_;
  std::condition_variable drain_gate_;
  std::condition_variable filled_some_;
  std::vector<std::condition_variable> emptied_some_;
  std::vector<std::deque<Slot*>> empty_;
  std::vector<size_t> slots_;  // of each lane
  std::deque<Slot*> filled_;
  Exchange* before_ = nullptr;
  const size_t lanes_;
  const size_t drains_;
  size_t lanes_ready_ = 0;
  size_t drains_ready_ = 0;
  size_t lanes_done_ = 0;
  size_t drains_done_ = 0;
  std::array<size_t, static_cast<size_t>(Mark::kThawed) + 1> marks_{};
  bool lanes_open_ = false;
  bool drains_open_ = false;
  bool over_ = false;
  std::chrono::steady_clock::time_point freeze_ends_ = std::chrono::steady_clock::time_point::max();
  std::function<void()> stalled_;
  uint64_t moves_ = 0;  // of slots of this round
  uint64_t pinned_bytes_ = 0;
  uint64_t pinned_peak_bytes_ = 0;
};

}  // namespace sluice
