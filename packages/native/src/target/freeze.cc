#include "target/freeze.h"

#include <thread>
#include <utility>

#include "base/error.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"

namespace sluice {

namespace {

// A thread that is uninterruptible at each of so many looks, and did not run between them, is
// stuck. Without the latter a database that reads all the time would look stuck.
constexpr int kLooksUntilStuck = 20;
constexpr std::chrono::milliseconds kLookPause{1};
// For killed threads to be zombies; what takes longer is reaped by the end of the tracer task.
constexpr std::chrono::seconds kReapLimit{1};

// By thread, how often it gave up the processor.
using Sleepers = std::map<pid_t, uint64_t>;

Sleepers uninterruptible_threads(pid_t pid) {
  Sleepers found;
  for (const pid_t tid : list_threads(pid).value_or(std::vector<pid_t>{})) {
    const auto status = read_thread_status(pid, tid);
    if (status && status->state == 'D') {
      found.emplace(tid, status->voluntary_switches);
    }
  }
  return found;
}

// In the first set at each look; none if all were seen otherwise once.
pid_t find_stuck_thread(pid_t pid) {
  Sleepers stuck = uninterruptible_threads(pid);
  for (int look = 1; look < kLooksUntilStuck && !stuck.empty(); ++look) {
    std::this_thread::sleep_for(kLookPause);
    const Sleepers now = uninterruptible_threads(pid);
    std::erase_if(stuck, [&](const auto& sleeper) {
      const auto found = now.find(sleeper.first);
      return found == now.end() || found->second != sleeper.second;
    });
  }
  return stuck.empty() ? 0 : stuck.begin()->first;
}

}  // namespace

void wait_until_stoppable(pid_t pid, const Patience& patience) {
  while (const pid_t tid = find_stuck_thread(pid)) {
    patience.check();
    if (Clock::now() >= patience.deadline) {
      throw Error("FREEZE_TIMEOUT", pid, "", 0,
                  "thread " + std::to_string(tid) +
                      " is stuck in an uninterruptible system call, so nothing was stopped");
    }
  }
}

// New threads can only be made by threads that still run, so a pass that finds nothing new after
// all known ones have stopped has found them all.
Freeze::Freeze(pid_t pid, pid_t tracer, const Patience& patience)
    : pid_(pid), tracer_(tracer), start_(Clock::now()) {
  while (seize_new() > 0 || executes_ || some_are_missing()) {
    wait_all(patience);
    patience.check();
    if (Clock::now() >= patience.deadline) {
      throw Error("FREEZE_TIMEOUT", pid_, "", 0,
                  executes_ ? "it was in the middle of an execve all the time"
                            : "it makes threads faster than they can be stopped");
    }
  }
  if (threads_.empty()) {
    throw Error("TARGET_EXITED", pid_, "", 0, "the process ended before it was frozen");
  }
  freezing_us_ = microseconds_since(start_);
  steps::at(steps::Step::kFrozen);
}

// A list of threads that is read while others end may leave out some that live.
bool Freeze::some_are_missing() const {
  const auto stat = read_stat(pid_);
  const size_t known = threads_.size() + (stat && stat->is_zombie() ? 1 : 0);
  return stat && !threads_.empty() && stat->num_threads > known;
}

// Interrupts each thread as it is found, so that all of them come to a stop side by side.
size_t Freeze::seize_new() {
  size_t found = 0;
  const bool executed = std::exchange(executes_, false);
  const auto tids = list_threads(pid_).value_or(std::vector<pid_t>{});
  if (executed) {
    look_at_leader_anew();
  }
  for (const pid_t tid : tids) {
    if (threads_.contains(tid)) {
      continue;
    }
    Tracee tracee(tid);
    try {
      if (!tracee.seize(0)) {
        // One that is not even a zombie may have another id by now.
        executes_ = executes_ || tracee.busy() || !read_thread_status(pid_, tid);
        if (tracee.busy()) {
          break;
        }
        continue;
      }
    } catch (const Error& error) {
      // A thread that called execve takes over the id of the leader, and is ours already.
      const auto status = read_thread_status(pid_, tid);
      if (!error.is("ALREADY_TRACED") || !status || status->tracer_pid != tracer_) {
        throw;
      }
      tracee.adopt();
    }
    if (!tracee.interrupt()) {
      // It ended; or its seize had to wait for its execve, and it has another id by now.
      executes_ = true;
      look_at_leader_anew();
      continue;
    }
    threads_.emplace(tid, Frozen{std::move(tracee), {}});
    ++found;
    steps::at(steps::Step::kThreadInterrupted);
  }
  return found;
}

// A thread that vanishes may have called execve: then it has the id of the main thread by now,
// which may have stood still, and itself runs until it stops for us, too. What stands is asked for
// registers before it is polled: it may stop in between.
void Freeze::look_at_leader_anew() {
  const auto leader = threads_.find(pid_);
  if (leader == threads_.end()) {
    return;
  }
  Tracee& tracee = leader->second.tracee;
  arch::Registers registers{};
  const bool stands = tracee.get_registers(&registers);
  switch (tracee.poll()) {
    case Stop::kGone:
      threads_.erase(leader);
      break;
    case Stop::kEvent:
      note_stopped(&leader->second);
      break;
    case Stop::kTimeout:
      if (!stands) {
        tracee.interrupt_anew();
      }
      break;
    default:
      tracee.resume();
  }
}

// A main thread that ended before the others: wait(2) does not tell of it until they have ended
// too.
bool Freeze::leader_is_zombie() const {
  const auto status = read_thread_status(pid_, pid_);
  return !status || status->is_zombie();
}

// Looks at all threads in turn, not at one after the other: those that sleep in a system call stop
// at once, and note_stopped should not come later for them than need be.
void Freeze::wait_all(const Patience& patience) {
  LookPacer pacer;
  for (;;) {
    pid_t running = 0;
    bool vanished = false;
    for (auto it = threads_.begin(); it != threads_.end();) {
      Tracee& tracee = it->second.tracee;
      const bool stood = tracee.stopped();
      // Once it takes long, also those that stood: what a thread that calls execve kills must be
      // reaped, or it waits for us and we for it.
      const bool look = !stood || executes_ || pacer.slow();
      const Stop stop = look ? tracee.poll() : Stop::kTimeout;
      if (stop == Stop::kGone || (stop == Stop::kTimeout && !stood && pacer.slow() &&
                                  it->first == pid_ && leader_is_zombie())) {
        it = threads_.erase(it);
        vanished = true;
        continue;
      }
      if (stood && stop == Stop::kTimeout) {
        ++it;
        continue;
      }
      if (stop == Stop::kEvent) {
        note_stopped(&it->second);
      } else {
        running = it->first;
      }
      if (stop != Stop::kEvent && stop != Stop::kTimeout) {
        // With the signal it was about to receive, which would be lost if the dumper died while the
        // thread stands before it. Our stop comes before its handler runs.
        tracee.resume();
      }
      ++it;
    }
    if (vanished) {
      look_at_leader_anew();
    } else if (running == 0) {
      return;
    }
    patience.check();
    if (running != 0 && Clock::now() >= patience.deadline) {
      throw Error("FREEZE_TIMEOUT", pid_, "", 0,
                  "thread " + std::to_string(running) +
                      " did not stop in time: it is in an uninterruptible system call");
    }
    pacer.pause();
  }
}

// At once, so that a call that only our stop interrupted is made again whoever lets the thread go:
// we, or the kernel when the dumper dies.
void Freeze::note_stopped(Frozen* frozen) {
  if (frozen->tracee.get_registers(&frozen->registers) &&
      arch::restart_if_merely_stopped(&frozen->registers)) {
    frozen->tracee.set_registers(frozen->registers);
  }
}

std::vector<FrozenThread> Freeze::threads() const {
  std::vector<FrozenThread> threads;
  threads.reserve(threads_.size());
  for (const auto& [tid, frozen] : threads_) {
    threads.push_back({tid, frozen.registers});
  }
  return threads;
}

std::vector<ThreadState> Freeze::thread_states() {
  std::vector<ThreadState> states;
  states.reserve(threads_.size());
  for (auto& [tid, frozen] : threads_) {
    states.push_back(thread_state(pid_, &frozen.tracee, frozen.registers));
  }
  return states;
}

std::vector<Tracee*> Freeze::tracees() {
  std::vector<Tracee*> tracees;
  tracees.reserve(threads_.size());
  for (auto& [tid, frozen] : threads_) {
    tracees.push_back(&frozen.tracee);
  }
  return tracees;
}

void Freeze::thaw() {
  if (thawed_) {
    return;
  }
  thawed_ = true;
  for (auto& [tid, frozen] : threads_) {
    if (frozen.tracee.stopped()) {
      frozen.tracee.detach();
      steps::at(steps::Step::kThreadReleased);
    }
  }
  frozen_us_ = microseconds_since(start_);
  steps::at(steps::Step::kThawed);
  reap_killed();
}

void Freeze::abandon() {
  thawed_ = true;
  frozen_us_ = microseconds_since(start_);
  for (auto& [tid, frozen] : threads_) {
    frozen.tracee.abandon();
  }
}

// What could not be let go was killed meanwhile.
void Freeze::reap_killed() {
  const Deadline deadline = Clock::now() + kReapLimit;
  LookPacer pacer;
  for (;;) {
    bool all_gone = true;
    for (auto& [tid, frozen] : threads_) {
      const Stop stop = frozen.tracee.attached() ? frozen.tracee.poll() : Stop::kGone;
      if (stop != Stop::kGone && stop != Stop::kTimeout) {
        frozen.tracee.detach();  // another thread, which took its id by execve
      }
      all_gone = !frozen.tracee.attached() && all_gone;
    }
    if (all_gone || Clock::now() >= deadline) {
      return;
    }
    pacer.pause();
  }
}

Freeze::~Freeze() { thaw(); }

}  // namespace sluice
