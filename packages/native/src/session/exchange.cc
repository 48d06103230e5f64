#include "session/exchange.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::chrono::seconds kStallLimit{10};

}  // namespace

template <typename Ready>
void Exchange::wait(std::unique_lock<std::mutex>* lock, std::condition_variable* changed,
                    Ready ready) {
  changed->wait(*lock, [&] { return over_ || ready(); });
  throw_if_over();
}

template <typename Ready>
void Exchange::wait_while_moving(bool frozen, Ready ready) {
  std::unique_lock<std::mutex> lock(mutex_);
  using Clock = std::chrono::steady_clock;
  const auto ends = frozen ? freeze_ends_ : Clock::time_point::max();
  uint64_t seen = moves();
  while (!progress_.wait_until(lock, std::min(Clock::now() + kStallLimit, ends),
                               [&] { return over_ || ready(); })) {
    if (Clock::now() >= ends) {
      throw Error("FREEZE_LIMIT", 0, "", 0,
                  "the freeze lasted longer than its limit and was ended; the process runs again");
    }
    const uint64_t now = moves();
    if (now == seen && frozen) {
      throw Error("FREEZE_TIMEOUT", 0, "", 0,
                  "no page moved for " + std::to_string(kStallLimit.count()) +
                      " s while it was frozen: the disk stands still, or reading the memory waits "
                      "for the process itself");
    }
    if (now == seen && stalled_) {
      lock.unlock();
      stalled_();
      lock.lock();
    }
    seen = now;
  }
  throw_if_over();
}

// With those of the round before, which the drains may still be at.
uint64_t Exchange::moves() const {
  if (before_ == nullptr) {
    return moves_;
  }
  const std::lock_guard<std::mutex> lock(before_->mutex_);
  return moves_ + before_->moves();
}

void Exchange::throw_if_over() const {
  if (over_) {
    throw Error("CANCELLED", 0, "", 0, "the dump was given up");
  }
}

void Exchange::fail() {
  const std::lock_guard<std::mutex> lock(mutex_);
  over_ = true;
  progress_.notify_all();
  lane_gate_.notify_all();
  drain_gate_.notify_all();
  filled_some_.notify_all();
  for (std::condition_variable& emptied : emptied_some_) {
    emptied.notify_all();
  }
}

void Exchange::check() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  throw_if_over();
}

void Exchange::add_empty_slot(Slot* slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  empty_[slot->lane].push_back(slot);
  ++slots_[slot->lane];
}

void Exchange::wait_ready(bool drains_too) {
  std::unique_lock<std::mutex> lock(mutex_);
  wait(&lock, &progress_,
       [&] { return lanes_ready_ == lanes_ && (drains_ready_ == drains_ || !drains_too); });
}

void Exchange::lane_wait_gate() {
  std::unique_lock<std::mutex> lock(mutex_);
  ++lanes_ready_;
  progress_.notify_all();
  wait(&lock, &lane_gate_, [&] { return lanes_open_; });
}

void Exchange::drain_wait_gate() {
  std::unique_lock<std::mutex> lock(mutex_);
  ++drains_ready_;
  progress_.notify_all();
  wait(&lock, &drain_gate_, [&] { return drains_open_; });
}

void Exchange::open_gate(bool drains_too) {
  const std::lock_guard<std::mutex> lock(mutex_);
  lanes_open_ = true;
  lane_gate_.notify_all();
  if (drains_too) {
    let_drains_in();
  }
}

void Exchange::let_drains_in() {
  if (std::exchange(drains_open_, true)) {
    return;
  }
  drain_gate_.notify_all();
  if (before_ != nullptr) {
    before_->open_gate();
  }
}

void Exchange::limit_freeze(std::chrono::steady_clock::time_point until) {
  const std::lock_guard<std::mutex> lock(mutex_);
  freeze_ends_ = until;
}

void Exchange::wait_lanes(bool frozen) {
  wait_while_moving(frozen, [&] { return lanes_done_ == lanes_; });
}

void Exchange::wait_drains(bool frozen) {
  wait_while_moving(frozen, [&] { return drains_done_ == drains_; });
}

bool Exchange::reach(Mark mark) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t count = ++marks_.at(static_cast<size_t>(mark));
  ++moves_;
  progress_.notify_all();
  return count == lanes_;
}

void Exchange::wait_mark(Mark mark) {
  std::unique_lock<std::mutex> lock(mutex_);
  wait(&lock, &progress_, [&] { return marks_.at(static_cast<size_t>(mark)) > 0; });
}

void Exchange::wait_secured() {
  wait_while_moving(true, [&] { return marks_.at(static_cast<size_t>(Mark::kSecured)) == lanes_; });
}

Slot* Exchange::take_empty(size_t lane) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (empty_[lane].empty()) {
    let_drains_in();
  }
  wait(&lock, &emptied_some_[lane], [&] { return !empty_[lane].empty(); });
  Slot* slot = empty_[lane].front();
  empty_[lane].pop_front();
  return slot;
}

void Exchange::give_filled(Slot* slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  pinned_bytes_ += slot->bytes;
  pinned_peak_bytes_ = std::max(pinned_peak_bytes_, pinned_bytes_);
  ++moves_;
  filled_.push_back(slot);
  filled_some_.notify_one();
}

void Exchange::lane_done() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++lanes_done_;
  progress_.notify_all();
  filled_some_.notify_all();
}

void Exchange::wait_empty(size_t lane) {
  std::unique_lock<std::mutex> lock(mutex_);
  wait(&lock, &emptied_some_[lane], [&] { return empty_[lane].size() == slots_[lane]; });
}

Slot* Exchange::take_filled() {
  std::unique_lock<std::mutex> lock(mutex_);
  wait(&lock, &filled_some_, [&] { return !filled_.empty() || lanes_done_ == lanes_; });
  if (filled_.empty()) {
    return nullptr;
  }
  Slot* slot = filled_.front();
  filled_.pop_front();
  return slot;
}

void Exchange::give_empty(Slot* slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++moves_;
  pinned_bytes_ -= slot->bytes;
  slot->clear();
  // The one used last is used next: its memory is still in the processor's cache.
  empty_[slot->lane].push_front(slot);
  // A lane that waits is woken for several slots at once, which saves it most of its sleeps; but
  // not later than when the drains have nothing left to do.
  if (empty_[slot->lane].size() >= (slots_[slot->lane] + 3) / 4 || filled_.empty()) {
    emptied_some_[slot->lane].notify_one();
  }
}

void Exchange::drain_done() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++drains_done_;
  progress_.notify_all();
}

uint64_t Exchange::pinned_peak_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return pinned_peak_bytes_;
}

}  // namespace sluice
