#include "pipe/chunker.h"

#include <algorithm>
#include <cerrno>

#include "base/error.h"

namespace sluice {

void Chunker::add(PageRange run, bool forced) {
  if (forced != batch_forced_) {
    flush();
    batch_forced_ = forced;
  }
  while (!run.empty()) {
    need_room();
    const uint64_t room = slot_->room() - batch_bytes_;
    if (room == 0) {
      flush();
      continue;
    }
    const PageRange part{run.start, run.start + std::min(run.bytes(), room)};
    append_range(&batch_, part);
    batch_bytes_ += part.bytes();
    run.start = part.end;
  }
}

void Chunker::finish() {
  flush();
  if (slot_ != nullptr) {
    hand_on();
  }
}

void Chunker::need_room() {
  if (slot_ != nullptr && slot_->room() == 0) {
    hand_on();
  }
  if (slot_ == nullptr) {
    slot_ = take_();
  }
}

void Chunker::hand_on() { give_(std::exchange(slot_, nullptr)); }

void Chunker::flush() {
  if (!batch_.empty()) {
    feed_batch(batch_forced_ ? forced_ : ordinary_);
    batch_.clear();
    batch_bytes_ = 0;
  }
}

// Walks a byte cursor over the batch: a feed may move less than asked, and a page that it cannot
// read is tried by force before it is given up.
void Chunker::feed_batch(Feed* feed) {
  std::vector<PageRange> rest = std::move(batch_);
  batch_.clear();
  uint64_t fed_of_first = 0;
  size_t first = 0;
  const auto advance = [&](uint64_t bytes) {
    while (bytes > 0) {
      const uint64_t left = rest[first].bytes() - fed_of_first;
      const uint64_t step = std::min(bytes, left);
      fed_of_first += step;
      bytes -= step;
      if (fed_of_first == rest[first].bytes()) {
        ++first;
        fed_of_first = 0;
      }
    }
  };
  while (first < rest.size()) {
    need_room();
    const std::span<const PageRange> remaining(rest.data() + first, rest.size() - first);
    const long moved = feed->feed(slot_, remaining, fed_of_first);
    // Slots hold whole pages: one that was begun must be finished in the same slot, the same way.
    const bool at_page = fed_of_first % kPageBytes == 0;
    if (moved > 0) {
      for (uint64_t noted = 0; noted < static_cast<uint64_t>(moved);) {
        const uint64_t at = rest[first].start + fed_of_first;
        const uint64_t bytes = std::min(rest[first].end - at, static_cast<uint64_t>(moved) - noted);
        append_range(&slot_->ranges, {at, at + bytes});
        noted += bytes;
        advance(bytes);
      }
      slot_->bytes += static_cast<uint64_t>(moved);
    } else if ((moved == -EFAULT || moved == 0) && at_page) {
      const uint64_t page = rest[first].start + fed_of_first;
      feed_unreadable({page, page + kPageBytes});
      advance(kPageBytes);
    } else if (moved == -EAGAIN && at_page && slot_->bytes > 0) {
      hand_on();  // the pipe holds less than it said
    } else if ((moved == -ENOSYS || moved == -EPERM) && feed == ordinary_ && feed != forced_) {
      feed = ordinary_ = forced_;  // a kernel or a seccomp profile without the ordinary way
    } else if (moved == -ESRCH) {
      throw Error("TARGET_EXITED", pid_, "", 0, "it ended while its memory was read");
    } else {
      throw Error("SYSTEM", pid_, feed->call(), static_cast<int>(-moved),
                  "its memory could not be read");
    }
  }
}

void Chunker::feed_unreadable(PageRange page) {
  need_room();
  const PageRange pages[] = {page};
  for (uint64_t done = 0; done < kPageBytes;) {
    const long moved = forced_->feed(slot_, pages, done);
    if (moved > 0) {
      done += static_cast<uint64_t>(moved);
      slot_->bytes += static_cast<uint64_t>(moved);
    } else if (done == 0) {
      left_out_(page);
      return;
    } else {
      throw Error("SYSTEM", pid_, "pread64", static_cast<int>(-moved),
                  "a page became unreadable while it was read");
    }
  }
  append_range(&slot_->ranges, page);
}

}  // namespace sluice
