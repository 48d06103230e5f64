#include "restore/restore_session.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/page_ranges.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"
#include "kernel/target_facts.h"
#include "restore/incomplete.h"
#include "restore/page_dropper.h"
#include "restore/restore_checks.h"
#include "restore/sharers.h"
#include "target/code_search.h"
#include "target/detach_remote.h"

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kAttachLimit{500};

}  // namespace

RestoreSession::RestoreSession(RestoreOptions options)
    : options_(std::move(options)),
      // Whoever restores takes greater risks.
      target_(options_.pid, options_.start_time_ticks, DespiteFilter::kYes),
      files_(options_.pid),
      descriptors_(options_.pid, options_.state.descriptors) {
  require_dumpable(options_.pid);
  std::vector<PageRange> kept = options_.stored;
  kept.insert(kept.end(), options_.left_out.begin(), options_.left_out.end());
  kept_ = normalised(std::move(kept));
}

RestoreSession::~RestoreSession() = default;

Error RestoreSession::explain(const Error& error) const {
  return target_.is_found_ended()
             ? Error("TARGET_EXITED", options_.pid, "", 0, "it ended while it was restored")
             : error;
}

// Without the helper's own.
std::vector<Mapping> RestoreSession::maps() const {
  std::vector<Mapping> mappings = read_maps(options_.pid);
  if (helper_) {
    std::erase_if(mappings, [&](const Mapping& mapping) {
      return mapping.start == helper_->scratch().value();
    });
  }
  return mappings;
}

void RestoreSession::attach() {
  target_.claim();
  memory_ = std::make_unique<TargetMemory>(options_.pid);
  scan_ = PageScan::open(options_.pid);
  tracer_ = std::make_unique<TracerTask>(&limit_);
  try {
    renew_limit();
    tracer_->run([&] { start_helper(); });
    limit_.clear();
  } catch (...) {
    cut_off_ = !tracer_->alive();
    // Whatever a failed attempt still traces is let go by the end of the tracer task.
    tracer_.reset();
    limit_.clear();
    throw;
  }
}

// Of its own pages, at most: what was stored and is not there now. Shared memory may be among them.
uint64_t RestoreSession::bytes_to_add() const {
  uint64_t bytes = 0;
  for (const PageRange& range : options_.stored) {
    bytes += range.bytes();
  }
  const auto status = read_status(options_.pid);
  const uint64_t present = status ? status->rss_anon_kb * 1024 : 0;
  return bytes > present ? bytes - present : 0;
}

void RestoreSession::start_helper() {
  require_memory_for_helper(options_.pid, bytes_to_add());
  const auto present = read_maps(options_.pid);
  gadgets_ = find_gadgets(*memory_, present);
  auto thread = target_.stop_thread(*memory_, gadgets_, present, Clock::now() + kAttachLimit);
  remains_ = remove_remains(thread.get(), find_remains(*memory_, present));
  // The scratch must not stand where something is to be mapped.
  std::vector<PageRange> taken;
  for (const Mapping& mapping : present) {
    taken.push_back({mapping.start, mapping.end});
  }
  for (const WantedVma& vma : options_.vmas) {
    taken.push_back(vma.range());
  }
  std::vector<Mapping> both;
  for (const PageRange& range : normalised(std::move(taken))) {
    Mapping mapping;
    mapping.start = range.start;
    mapping.end = range.end;
    both.push_back(mapping);
  }
  double stopped_us = 0;
  helper_ = Helper::start(std::move(thread), *memory_, gadgets_, both, &stopped_us, &remains_);
  raise_limits();
  calls_ = std::make_unique<MappingCalls>(options_.pid, options_.vmas, helper_.get());
  actions_ = std::make_unique<SignalActionRestorer>(*memory_, options_.state);
}

// It inherited limits of the process, some of which may have been lowered since. They are its own.
void RestoreSession::raise_limits() {
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_STACK}) {
    const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    rlimit limit{};
    if (prlimit(helper_->pid(), resource, &none, nullptr) != 0 &&
        prlimit(helper_->pid(), resource, nullptr, &limit) == 0) {
      limit.rlim_cur = limit.rlim_max;
      prlimit(helper_->pid(), resource, &limit, nullptr);
    }
  }
}

void RestoreSession::check() {
  tracer_->run([&] {
    require_same_threads(options_.pid, options_.state.threads,
                         list_threads(options_.pid).value_or(std::vector<pid_t>{}));
    descriptors_.check();
    files_.learn();
    check_memory(Ask::kYes);
    if (!options_.shared) {
      require_unshared(options_.pid, helper_->pid(), options_.vmas, options_.stored);
    }
  });
}

// Flags come from a walk through all page tables, so those of the first look are taken for as long
// as the mappings are the same.
std::vector<PresentVma> RestoreSession::present_vmas() {
  const std::vector<Mapping> mappings = maps();
  if (mappings != flagged_maps_) {
    flags_ = read_vm_flags(options_.pid);
    flagged_maps_ = mappings;
  }
  std::vector<PresentVma> vmas;
  auto flags = flags_.begin();
  for (const Mapping& mapping : mappings) {
    while (flags != flags_.end() && flags->start < mapping.start) {
      ++flags;
    }
    const bool known =
        flags != flags_.end() && flags->start == mapping.start && flags->end == mapping.end;
    vmas.push_back({mapping, known ? flags->flags : ""});
  }
  return vmas;
}

void RestoreSession::check_memory(Ask ask) {
  const pid_t pid = options_.pid;
  require_alone(pid, helper_->pid());
  const std::vector<PresentVma> present = present_vmas();
  plan_ = plan_restore(present, options_.vmas, calls_->heap_bounds());
  require_possible(pid, plan_);
  require_left_alone(pid, plan_, options_.left_out, gadgets_);
  require_same_files(pid, options_.vmas, present, options_.stored, &files_, ask);
  calls_->open_files(plan_, flagged_maps_, files_, ask);
}

void RestoreSession::renew_limit() {
  limit_.set(Clock::now() + std::chrono::milliseconds(options_.freeze_limit_ms));
}

// A step, for which there is as much time as until the next one.
template <typename Work>
auto RestoreSession::run_frozen(Work&& work) {
  // Not here: a task that waits for too long has ended, whatever this thread would like.
  const auto step = [&] {
    struct Renew {
      RestoreSession* session;
      ~Renew() { session->renew_limit(); }
    } renew{this};
    renew_limit();
    return work();
  };
  return tracer_->run(step);
}

std::vector<PageRange> RestoreSession::freeze() {
  try {
    return run_frozen([&] {
      stop_all();
      threads_->check();
      descriptors_.check();
      check_memory(Ask::kNo);
      writer_->require_forced_write(options_.stored);
      writer_->open_shared(files_);
      descriptors_.take(target_.pidfd());
      actions_->check([this] { return lend_thread(); }, helper_.get());
      return writer_->fixed();
    });
  } catch (...) {
    abandon();
    throw;
  }
}

void RestoreSession::stop_all() {
  const auto limit = std::chrono::milliseconds(options_.freeze_timeout_ms);
  const auto patience = [&] {
    return Patience{Clock::now() + limit, [this] {
                      if (cancelled_.load(std::memory_order_relaxed)) {
                        throw Error("CANCELLED", options_.pid, "", 0, "it was cancelled");
                      }
                    }};
  };
  patience().check();
  wait_until_stoppable(options_.pid, patience());
  freeze_ = std::make_unique<Freeze>(options_.pid, tracer_->pid(), patience());
  result_.freezing_us = freeze_->freezing_us();
  if (target_.has_ended()) {
    throw Error("TARGET_EXITED", options_.pid, "", 0, "it ended before it was frozen");
  }
  const auto present = read_maps(options_.pid);
  if (std::none_of(present.begin(), present.end(), [&](const Mapping& mapping) {
        return mapping.start == helper_->scratch().value();
      })) {
    throw Error("TARGET_EXECED", options_.pid, "", 0, "it has become another program by execve");
  }
  std::vector<pid_t> tids;
  for (const FrozenThread& thread : freeze_->threads()) {
    tids.push_back(thread.tid);
  }
  require_same_threads(options_.pid, options_.state.threads, tids);
  threads_ = std::make_unique<ThreadRestorer>(*memory_, options_.state.threads, freeze_.get());
  writer_ = std::make_unique<PageWriter>(*memory_, options_.vmas, calls_.get());
}

// Under freeze, one in which calls can be made; it stays frozen.
std::unique_ptr<RemoteThread> RestoreSession::lend_thread() {
  return std::make_unique<RemoteThread>(*memory_, gadgets_, read_maps(options_.pid),
                                        freeze_->tracees(), DespiteFilter::kYes);
}

// Lets all go while nothing has been changed. What could not be stopped cannot be let go either:
// the end of the tracer task does that.
void RestoreSession::abandon() {
  try {
    tracer_->run([&] {
      limit_.clear();
      threads_.reset();
      freeze_.reset();
      writer_.reset();
      calls_.reset();
      if (helper_) {
        remains_.push_back(helper_->end());
        helper_.reset();
      }
    });
  } catch (const Error&) {
    // Whatever it traced is free, and the helper has died.
    if (freeze_) {
      freeze_->abandon();
    }
    if (helper_) {
      remains_.push_back({helper_->pid(), helper_->scratch()});
    }
  }
  tracer_.reset();
}

bool RestoreSession::holds(RemotePtr address, std::span<const uint8_t> bytes) {
  std::vector<uint8_t> now(bytes.size());
  if (!run_frozen([&] { return memory_->read(address, now.data(), now.size()); })) {
    // Not a difference, if it has no memory any more.
    if (target_.is_found_ended()) {
      throw Error("TARGET_EXITED", options_.pid, "", 0, "it ended while it was restored");
    }
    return false;
  }
  return std::equal(now.begin(), now.end(), bytes.begin());
}

void RestoreSession::apply() {
  try {
    run_frozen([&] { change(); });
  } catch (const Error& error) {
    // Ended somewhere on the way.
    throw error.is("FREEZE_LIMIT") ? incomplete(error) : error;
  }
  result_.mappings = calls_->done();
  result_.warnings = calls_->done().warnings;
  std::ranges::copy(descriptors_.warnings(), std::back_inserter(result_.warnings));
}

void RestoreSession::change() {
  const auto lend = [this] { return lend_thread(); };
  actions_->restore(lend, helper_.get());
  try {
    calls_->make_all(plan_);
  } catch (const Error& error) {
    if (!error.is("RESTORE_INCOMPLETE")) {
      actions_->undo(lend, helper_.get());
    }
    throw;
  }
  try {
    calls_->join_pieces(maps(), options_.left_out, gadgets_);
    require_mapped(options_.pid, maps(), options_.vmas, calls_->heap_bounds());
    PageDropper dropper(options_.pid, kept_, scan_.get(), calls_.get(), writer_.get());
    for (const WantedVma& vma : options_.vmas) {
      renew_limit();
      result_.pages_dropped += dropper.drop(vma);
      steps::at(steps::Step::kPagesDropped);
    }
  } catch (const Error& error) {
    throw incomplete(error);
  }
}

void RestoreSession::write(const std::vector<PageRange>& ranges, std::span<const uint8_t> bytes) {
  run_frozen([&] {
    try {
      result_.pages_written += writer_->write(ranges, bytes);
      steps::at(steps::Step::kPagesWritten);
    } catch (const Error& error) {
      throw incomplete(error);
    }
  });
}

void RestoreSession::finish() {
  run_frozen([&] {
    try {
      descriptors_.restore();
      threads_->restore();
    } catch (const Error& error) {
      throw incomplete(error);
    }
  });
}

void RestoreSession::thaw() {
  if (freeze_ && tracer_) {
    try {
      tracer_->run([&] {
        freeze_->thaw();
        limit_.clear();
      });
    } catch (const Error& error) {
      // All is done to it, and it goes on.
      if (!error.is("FREEZE_LIMIT")) {
        throw;
      }
      freeze_->abandon();
    }
    result_.frozen_us = freeze_->frozen_us();
    threads_.reset();
    freeze_.reset();
  }
}

std::vector<std::string> RestoreSession::detach() {
  if (tracer_) {
    abandon();
  }
  return remove_last_remains(target_, std::move(remains_), cut_off_);
}

}  // namespace sluice
