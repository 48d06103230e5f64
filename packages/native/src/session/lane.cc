#include "session/lane.h"

#include <fcntl.h>

#include <algorithm>

#include "base/error.h"
#include "kernel/syscalls.h"
#include "pipe/chunker.h"
#include "target/code_search.h"
#include "target/thread_remote.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kAttachLimit{500};

// The target itself is at fault, so reading from outside would fail as well.
bool is_about_target(const Error& error) {
  return error.is("TARGET_EXITED") || error.is("NO_SUCH_PROCESS") || error.is("PERMISSION") ||
         error.is("ALREADY_TRACED");
}

}  // namespace

LaneAttached Lane::attach() {
  LaneAttached attached;
  tracer_ = std::make_unique<TracerTask>();
  memory_ = std::make_unique<TargetMemory>(options_.pid);
  scan_ = PageScan::open(options_.pid);
  if (options_.mode != CaptureMode::kRead) {
    try {
      tracer_->run([&] { start_helper(&attached); });
      return attached;
    } catch (const Error& error) {
      // Whatever a failed attempt still traces is let go by the end of the tracer task.
      tracer_ = std::make_unique<TracerTask>();
      if (is_about_target(error)) {
        throw;
      }
      if (options_.mode == CaptureMode::kVmsplice) {
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
  const auto maps = read_maps(options_.pid);
  const auto gadgets = find_gadgets(*memory_, maps);
  if (!gadgets.complete()) {
    throw Error("INJECTION", options_.pid, "", 0,
                "its code lacks the instructions that an injected call needs");
  }
  auto thread =
      std::make_unique<RemoteThread>(*memory_, gadgets, maps, Clock::now() + kAttachLimit);
  if (options_.ended()) {
    throw Error("TARGET_EXITED", options_.pid, "", 0, "its pid belongs to another process now");
  }
  if (options_.index == 0) {
    const auto left = remove_remains(thread.get(), find_remains(*memory_, maps));
    remains_.insert(remains_.end(), left.begin(), left.end());
  }
  helper_ =
      Helper::start(std::move(thread), *memory_, gadgets, maps, &attached->stopped_us, &remains_);
  try {
    make_slots();
  } catch (...) {
    remains_.push_back(helper_->end());
    helper_.reset();
    throw;
  }
  attached->with_helper = true;
}

void Lane::make_slots() {
  const size_t count = helper_ ? options_.slots : options_.read_slots;
  for (size_t i = 0; i < count; ++i) {
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

void Lane::capture(const CapturePlan& plan, PageRange share, Exchange* exchange) {
  try {
    for (const auto& slot : slots_) {
      exchange->add_empty_slot(slot.get());
    }
    tracer_->run([&] {
      exchange->lane_wait_gate();
      feed_share(plan, share, exchange);
    });
    exchange->lane_done();
  } catch (...) {
    exchange->fail(std::current_exception());
    throw;
  }
}

void Lane::feed_share(const CapturePlan& plan, PageRange share, Exchange* exchange) {
  std::unique_ptr<Feed> ordinary;
  if (helper_) {
    ordinary = std::make_unique<VmspliceFeed>(helper_.get());
  } else {
    ordinary = std::make_unique<ReadFeed>(options_.pid);
  }
  ForcedFeed forced(memory_.get());
  const auto give = [&](Slot* slot) {
    pages_captured_.fetch_add(slot->bytes / kPageBytes, std::memory_order_relaxed);
    exchange->give_filled(slot);
  };
  Chunker chunker(
      options_.pid, ordinary.get(), &forced, [&] { return exchange->take_empty(options_.index); },
      give, [&](PageRange page) { append_range(&left_out_, page); });
  for (const CaptureItem& item : plan.items) {
    const PageRange part = intersect(item.range, share);
    if (part.empty()) {
      continue;
    }
    if (!item.filter) {
      chunker.add(part, item.forced);
      continue;
    }
    scan_->scan(part, *item.filter, [&](PageRange run) {
      chunker.add(run, item.forced);
      return true;
    });
  }
  chunker.finish();
}

void Lane::detach() {
  if (!tracer_) {
    return;
  }
  if (helper_) {
    tracer_->run([&] {
      remains_.push_back(helper_->end());
      helper_.reset();
    });
  }
  slots_.clear();
  tracer_.reset();
}

}  // namespace sluice
