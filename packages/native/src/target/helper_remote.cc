#include "target/helper_remote.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/page_range.h"
#include "kernel/abi.h"
#include "kernel/memory_room.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"
#include "target/thread_remote.h"

namespace sluice {
namespace {

using arch::make_call;

constexpr std::array<char, 16> kMagic = {'S', 'l', 'u', 'i', 'c', 'e', ' ', 's',
                                         'c', 'r', 'a', 't', 'c', 'h', '0', '1'};
constexpr uint64_t kNameOffset = 64;
constexpr uint64_t kRootOffset = 96;
constexpr char kRoot[] = "/";
constexpr uint64_t kFrameOffset = 1024;
constexpr uint64_t kIovecOffset = 4096;
constexpr uint64_t kResultOffset = kScratchBytes - 4096;
static_assert(kIovecOffset + kMostIovecs * sizeof(iovec) <= kResultOffset);

// Memory of the target and nothing else (sharing its file system state would make its setns(2)
// fail); no signal to anyone when it ends, so that the target's own wait(2) does not see it.
constexpr uint64_t kCloneFlags = CLONE_VM;
// Memory of its own. A child of the target and not of the helper, so that its zombie can be found
// and reaped like the helper's whoever dies first: an orphan would go to whatever init there is.
constexpr uint64_t kTwinFlags = CLONE_PARENT;

constexpr std::chrono::seconds kStartLimit{5};
// Its scratch, page tables and kernel stack are less than 100 KiB; the rest is for what the target
// takes meanwhile.
constexpr uint64_t kHelperMemoryBytes = uint64_t{1} << 20;
constexpr rlim_t kMostDescriptors = 1024;
// The helper's end is seen by the tracer before the target can reap it.
constexpr int kReapTries = 200;
constexpr std::chrono::milliseconds kReapPause{1};

// All scratches are at multiples of the stride plus the mark.
constexpr uint64_t kPlaceStride = uint64_t{16} << 20;
constexpr uint64_t kPlaceMark = 0x51c000;
constexpr int kMostPlaces = 64;
constexpr uint64_t kUserEnd = 0x7ffffffff000;

bool has_scratch_shape(const Mapping& mapping) {
  return mapping.writable && !mapping.readable && !mapping.executable && !mapping.shared &&
         !has_file(mapping) && mapping.end - mapping.start == kScratchBytes &&
         mapping.start % kPlaceStride == kPlaceMark;
}

// Nothing in it yet: the dumper died before it wrote the magic.
bool is_scratch(const TargetMemory& memory, RemotePtr at) {
  std::array<char, kMagic.size()> start{};
  return memory.read(at, start.data(), start.size()) &&
         (start == kMagic || start == decltype(start){});
}

arch::Call mmap_call(RemotePtr place) {
  return make_call(SYS_mmap, {place.value(), kScratchBytes, PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0});
}

arch::Call munmap_call(RemotePtr scratch) {
  return make_call(SYS_munmap, {scratch.value(), kScratchBytes});
}

arch::Call wait_call(pid_t child) {
  return make_call(SYS_wait4, {static_cast<uint64_t>(child), 0, __WALL | WNOHANG, 0});
}

// All calls that a helper costs the target, before the first of them is made. A helper whose tracer
// dies at once is a thread of its own in the target's memory: it must be able to end.
void require_no_filter_against(const RemoteThread& thread, RemotePtr scratch) {
  for (const arch::Call& call :
       {mmap_call(scratch), munmap_call(scratch), wait_call(1),
        make_call(SYS_clone, {kCloneFlags, (scratch + kFrameOffset).value()})}) {
    thread.require_harmless(call);
  }
  thread.require_allowed(make_call(SYS_exit_group, {arch::kHelperExitCode}));
}

RemotePtr map_scratch(RemoteThread* thread, const TargetMemory& memory,
                      const arch::Gadgets& gadgets, const std::vector<Mapping>& maps) {
  int64_t at = -ENOMEM;
  for (const RemotePtr place : scratch_places(maps)) {
    require_no_filter_against(*thread, place);
    at = thread->call(mmap_call(place));
    if (at != -EEXIST) {
      break;
    }
  }
  if (at < 0) {
    throw Error("INJECTION", memory.pid(), "mmap", static_cast<int>(-at),
                "no memory could be mapped in it (a limit on its address space?)");
  }
  const RemotePtr scratch(static_cast<uint64_t>(at));
  const RemotePtr stack = scratch + kFrameOffset;
  const auto exit_registers = arch::registers_for_exit(thread->registers(), gadgets, stack);
  const auto frame = arch::return_frame(stack, exit_registers, {}, ~uint64_t{0}, gadgets);
  if (!TargetMemory::write(thread->tid(), scratch, kMagic.data(), kMagic.size()) ||
      !TargetMemory::write(thread->tid(), scratch + kNameOffset, kHelperName, sizeof kHelperName) ||
      !TargetMemory::write(thread->tid(), scratch + kRootOffset, kRoot, sizeof kRoot) ||
      !TargetMemory::write(thread->tid(), stack, frame.data(), frame.size())) {
    thread->call(munmap_call(scratch));
    throw Error("INJECTION", memory.pid(), "process_vm_writev", EFAULT,
                "memory mapped in it could not be written");
  }
  return scratch;
}

}  // namespace

void require_memory_for_helper(pid_t pid, uint64_t more) {
  const auto room = memory_room(pid);
  if (room && room->bytes < kHelperMemoryBytes + more) {
    throw Error("INJECTION", pid, "", 0,
                "what a helper needs could bring it over its limit on memory, and be its death: " +
                    room->limit + " leaves " + std::to_string(room->bytes / 1024) + " KiB, and " +
                    std::to_string((kHelperMemoryBytes + more) / 1024) + " KiB must be free");
  }
}

Helper::Helper(pid_t pid, const TargetMemory& memory, const arch::Gadgets& gadgets,
               RemotePtr scratch, const arch::Registers& registers)
    : pid_(pid),
      memory_(memory),
      gadgets_(gadgets),
      scratch_(scratch),
      registers_(registers),
      tracee_(pid) {
  tracee_.adopt();
}

std::unique_ptr<Helper> Helper::start(std::unique_ptr<RemoteThread> thread,
                                      const TargetMemory& memory, const arch::Gadgets& gadgets,
                                      const std::vector<Mapping>& maps, double* stopped_us,
                                      std::vector<HelperRemains>* remains) {
  const auto status = read_status(memory.pid());
  const RemotePtr scratch = map_scratch(thread.get(), memory, gadgets, maps);
  const arch::Registers registers = thread->registers();
  pid_t pid = 0;
  try {
    pid = thread->clone(kCloneFlags, scratch + kFrameOffset);
  } catch (const Error&) {
    if (thread->cloned() == 0) {
      thread->call(munmap_call(scratch));
    } else if (remains != nullptr) {
      remains->push_back({thread->cloned(), scratch});
    }
    throw;
  }
  std::unique_ptr<Helper> helper(new Helper(pid, memory, gadgets, scratch, registers));
  *stopped_us = thread->stopped_us();
  thread.reset();
  try {
    helper->secure(status && status->seccomp_mode != 0);
    steps::at(steps::Step::kHelperSecured);
    helper->set_up();
  } catch (...) {
    const HelperRemains left = helper->end();
    if (remains != nullptr) {
      remains->push_back(left);
    }
    throw;
  }
  steps::at(steps::Step::kHelperReady);
  return helper;
}

// From here on it dies with the tracer. Before, it would go to its exit frame; so the call that
// names it is made as in a thread of the target (thread_remote.h), and it always ends as one of the
// two that find_remains knows: with its exit code, or with its name.
void Helper::secure(bool filtered) {
  const Deadline deadline = Clock::now() + kStartLimit;
  wait_for(Stop::kEvent, deadline);
  const auto name = make_call(SYS_prctl, {PR_SET_NAME, (scratch_ + kNameOffset).value()});
  tracee_.set_registers(
      arch::registers_for_call(registers_, gadgets_, name, scratch_ + kFrameOffset));
  for (int stops = 0; stops < 2; ++stops) {
    tracee_.resume_to_syscall();
    wait_for(Stop::kSyscall, deadline);
  }
  steps::at(steps::Step::kHelperNamed);
  // A child that it makes is attached with the same options, so that it never runs unobserved.
  const long options =
      PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | (filtered ? abi::kPtraceSuspendSeccomp : 0L);
  if (!tracee_.set_options(options)) {
    throw Error("INJECTION", memory_.pid(), "ptrace", EPERM, "the helper cannot be secured");
  }
  note_trap_action();
  tracee_.set_signal_mask(~uint64_t{0});
}

// Its calls are made by single steps, and the first that ends while SIGTRAP is blocked makes the
// kernel forget how that is handled. In the helper only, which shares no handlers with the target.
void Helper::note_trap_action() {
  tracee_.set_signal_mask(~(uint64_t{1} << (SIGTRAP - 1)));
  abi::KernelSigaction action{};
  if (ask_signal_action(SIGTRAP, &action) == 0) {
    trap_action_ = std::make_unique<abi::KernelSigaction>(action);
  }
}

int64_t Helper::ask_signal_action(int signal, abi::KernelSigaction* action) {
  const int64_t asked = call(make_call(SYS_rt_sigaction, {static_cast<uint64_t>(signal), 0,
                                                          results().value(), sizeof action->mask}));
  return asked == 0 && !memory_.read(results(), action, sizeof *action) ? -EFAULT : asked;
}

int64_t Helper::signal_action(int signal, abi::KernelSigaction* action) {
  if (signal != SIGTRAP) {
    return ask_signal_action(signal, action);
  }
  if (!trap_action_) {
    return -EFAULT;
  }
  *action = *trap_action_;
  return 0;
}

void Helper::wait_for(Stop wanted, Deadline deadline) {
  for (;;) {
    const Stop stop = tracee_.wait(deadline);
    if (stop == wanted) {
      return;
    }
    if (stop == Stop::kGone) {
      throw Error("TARGET_EXITED", memory_.pid(), "", 0, "its helper was killed");
    }
    if (stop == Stop::kTimeout) {
      throw Error("FREEZE_TIMEOUT", memory_.pid(), "", 0, "its helper did not start");
    }
    tracee_.take_signal();
    wanted == Stop::kSyscall ? tracee_.resume_to_syscall() : tracee_.resume();
  }
}

void Helper::set_up() {
  // While it holds copies of the target's descriptors, nothing that the target closes is closed. A
  // file system may be told of each (flush), and that of a server that is gone does not answer.
  const int64_t closed =
      call_until(make_call(SYS_close_range, {0, ~uint32_t{0}, 0}), Clock::now() + kStartLimit);
  if (closed < 0) {
    throw Error("INJECTION", memory_.pid(), "close_range", static_cast<int>(-closed),
                "the helper cannot let go of the target's descriptors");
  }
  call(make_call(SYS_chdir, {(scratch_ + kRootOffset).value()}));
  call(make_call(SYS_madvise, {scratch_.value(), kScratchBytes, MADV_DONTFORK}));
  pidfd_.reset(static_cast<int>(sys::call(SYS_pidfd_open, pid_, 0)));

  // It inherited what may slow it down or stop it. All of this is the helper's own, not the
  // target's; where it is not allowed, the helper is just slower.
  rlimit descriptors{};
  if (prlimit(pid_, RLIMIT_NOFILE, nullptr, &descriptors) == 0) {
    rlimit wanted{kMostDescriptors, std::max(kMostDescriptors, descriptors.rlim_max)};
    if (prlimit(pid_, RLIMIT_NOFILE, &wanted, nullptr) != 0) {
      wanted = {std::min(kMostDescriptors, descriptors.rlim_max), descriptors.rlim_max};
      prlimit(pid_, RLIMIT_NOFILE, &wanted, nullptr);
    }
  }
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof all);
  sched_setaffinity(pid_, sizeof all, &all);
  const sched_param ordinary{};
  sched_setscheduler(pid_, SCHED_OTHER, &ordinary);
  const auto who = static_cast<id_t>(pid_);
  if (getpriority(PRIO_PROCESS, who) > 0) {
    setpriority(PRIO_PROCESS, who, 0);
  }
}

RemotePtr Helper::results() const { return scratch_ + kResultOffset; }

int64_t Helper::call(const arch::Call& call) {
  const sys::RemoteFault fault = sys::remote_fault(call.number);
  return fault.errnum != 0 ? -fault.errnum : make(call);
}

int64_t Helper::call_until(const arch::Call& call, Deadline deadline) {
  const sys::RemoteFault fault = sys::remote_fault(call.number);
  return fault.errnum != 0 ? -fault.errnum : make(call, nullptr, deadline);
}

int64_t Helper::make(const arch::Call& call, pid_t* cloned, std::optional<Deadline> deadline) {
  if (!tracee_.set_registers(
          arch::registers_for_call(registers_, gadgets_, call, scratch_ + kFrameOffset))) {
    return -ESRCH;
  }
  do {
    tracee_.single_step();
    const Stop stop = deadline ? tracee_.wait(*deadline) : tracee_.wait_blocking();
    if (stop == Stop::kGone) {
      return -ESRCH;
    }
    if (stop == Stop::kTimeout) {
      stuck_ = true;
      return -ETIMEDOUT;
    }
    if (stop == Stop::kClone && cloned != nullptr) {
      *cloned = static_cast<pid_t>(tracee_.event_message());
      steps::at(steps::Step::kTwinCloned);
    }
    // SIGTRAP of the step itself; a stop by job control comes before it, and means step again.
  } while (tracee_.take_signal() != SIGTRAP);
  arch::Registers after{};
  return tracee_.get_registers(&after) ? arch::call_result(after) : -ESRCH;
}

int64_t Helper::clone_twin() {
  const sys::RemoteFault fault = sys::remote_fault(SYS_clone);
  if (fault.errnum != 0) {
    return -fault.errnum;
  }
  pid_t pid = 0;
  const int64_t result = make(make_call(SYS_clone, {kTwinFlags}), &pid);
  // The event names the child in our pid namespace; the call's result does so in the target's.
  return pid != 0 ? pid : result;
}

arch::Registers Helper::exit_registers() const {
  return arch::registers_for_exit(registers_, gadgets_, scratch_ + kFrameOffset);
}

int64_t Helper::vmsplice(int helper_fd, std::span<const iovec> pages) {
  const sys::RemoteFault fault = sys::remote_fault(SYS_vmsplice);
  if (fault.errnum != 0) {
    return -fault.errnum;
  }
  std::vector<iovec> cut;
  if (fault.cap_bytes != 0) {
    cut = sys::first_bytes(pages, fault.cap_bytes);
    pages = cut;
  }
  const RemotePtr vector = scratch_ + kIovecOffset;
  if (!TargetMemory::write(pid_, vector, pages.data(), pages.size_bytes())) {
    return -ESRCH;
  }
  return make(make_call(fault.copy ? SYS_writev : SYS_vmsplice,
                        {static_cast<uint64_t>(helper_fd), vector.value(), pages.size(),
                         SPLICE_F_GIFT | SPLICE_F_NONBLOCK}));
}

HelperPipe Helper::make_pipe() {
  const RemotePtr result = results();
  const int64_t made = call(make_call(SYS_pipe2, {result.value(), O_CLOEXEC}));
  int fds[2] = {-1, -1};
  if (made < 0 || !memory_.read(result, fds, sizeof fds)) {
    throw Error("INJECTION", memory_.pid(), "pipe2", static_cast<int>(-made),
                "the helper can make no pipe");
  }
  HelperPipe pipe;
  pipe.helper_fd = fds[1];
  const long read_end = sys::call(SYS_pidfd_getfd, pidfd_.get(), fds[0], 0);
  const long write_end = sys::call(SYS_pidfd_getfd, pidfd_.get(), fds[1], 0);
  pipe.read_end.reset(static_cast<int>(read_end));
  pipe.write_end.reset(static_cast<int>(write_end));
  call(make_call(SYS_close, {static_cast<uint64_t>(fds[0])}));
  if (read_end < 0 || write_end < 0) {
    const long failed = read_end < 0 ? read_end : write_end;
    throw Error("INJECTION", memory_.pid(), "pidfd_getfd", static_cast<int>(-failed),
                "the helper's pipe cannot be taken over");
  }
  return pipe;
}

ScopedFd Helper::make_userfaultfd() {
  const int64_t made =
      call(make_call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | abi::kUffdUserModeOnly}));
  if (made < 0) {
    throw Error("INJECTION", memory_.pid(), "userfaultfd", static_cast<int>(-made),
                "the helper can make no userfaultfd");
  }
  const long taken = sys::call(SYS_pidfd_getfd, pidfd_.get(), made, 0);
  call(make_call(SYS_close, {static_cast<uint64_t>(made)}));
  if (taken < 0) {
    throw Error("INJECTION", memory_.pid(), "pidfd_getfd", static_cast<int>(-taken),
                "the helper's userfaultfd cannot be taken over");
  }
  steps::at(steps::Step::kUserfaultfdTaken);
  return ScopedFd(static_cast<int>(taken));
}

HelperRemains Helper::end() {
  HelperRemains remains{pid_, scratch_};
  if (tracee_.stopped() && call(munmap_call(scratch_)) == 0) {
    remains.scratch = RemotePtr();
    steps::at(steps::Step::kScratchUnmapped);
  }
  leave();
  steps::at(steps::Step::kHelperEnded);
  return remains;
}

// It ends by a call of its own: killing a task of another user may not be allowed.
void Helper::leave() {
  if (stuck_) {
    return;  // it dies with the tracer task, when the call lets it
  }
  if (tracee_.stopped()) {
    tracee_.set_registers(exit_registers());
    tracee_.resume();
  }
  const Deadline deadline = Clock::now() + kStartLimit;
  while (tracee_.attached()) {
    const Stop stop = tracee_.wait(deadline);
    if (stop == Stop::kTimeout) {
      return;  // it dies with the tracer task
    }
    if (stop != Stop::kGone) {
      tracee_.take_signal();
      tracee_.resume();
    }
  }
}

Helper::~Helper() { leave(); }

std::vector<RemotePtr> scratch_places(const std::vector<Mapping>& maps) {
  PageRange gap;
  uint64_t below = 0;
  for (const Mapping& mapping : maps) {
    const uint64_t end = std::min(mapping.start, kUserEnd);
    if (end > below && end - below > gap.bytes()) {
      gap = {below, end};
    }
    below = mapping.end;
  }
  std::vector<RemotePtr> places;
  const uint64_t middle = gap.start + gap.bytes() / 2;
  uint64_t at = middle / kPlaceStride * kPlaceStride + kPlaceMark;
  for (int i = 0; i < kMostPlaces && at > gap.start && at + kScratchBytes < gap.end; ++i) {
    places.push_back(RemotePtr(at));
    at += kPlaceStride;
  }
  return places;
}

std::vector<HelperRemains> find_remains(const TargetMemory& memory,
                                        const std::vector<Mapping>& maps) {
  std::vector<HelperRemains> remains;
  bool one_lives = false;
  for (const pid_t tid : list_threads(memory.pid()).value_or(std::vector<pid_t>{})) {
    for (const pid_t child : list_children(memory.pid(), tid).value_or(std::vector<pid_t>{})) {
      const auto stat = read_stat(child);
      if (!stat || stat->exit_signal != 0) {
        continue;
      }
      const bool named = stat->comm == kHelperName;
      // One that ended before it was named did so by its exit frame.
      if (stat->is_zombie() && (named || stat->exit_code == arch::kHelperExitCode << 8)) {
        remains.push_back({child, RemotePtr()});
      }
      one_lives = one_lives || (named && !stat->is_zombie());
    }
  }
  if (one_lives) {
    return remains;  // another dumper is at work, and one of the scratches is its
  }
  for (const Mapping& mapping : maps) {
    if (has_scratch_shape(mapping) && is_scratch(memory, RemotePtr(mapping.start))) {
      remains.push_back({0, RemotePtr(mapping.start)});
    }
  }
  return remains;
}

std::vector<HelperRemains> remove_remains(RemoteThread* thread,
                                          std::vector<HelperRemains> remains) {
  std::erase_if(remains, [&](HelperRemains& item) {
    // What stands there now may be something else, if the target has become another program.
    if (item.scratch && !is_scratch(TargetMemory(thread->tid()), item.scratch)) {
      item.scratch = RemotePtr();
    }
    if (item.scratch && thread->call(munmap_call(item.scratch)) == 0) {
      item.scratch = RemotePtr();
    }
    for (int tries = 0; item.zombie != 0 && tries < kReapTries; ++tries) {
      // The target knows the helper by the pid in its own namespace.
      const auto status = read_status(item.zombie);
      if (!status) {
        item.zombie = 0;  // the target has reaped it by itself
        break;
      }
      const pid_t known_as = status->ns_pids.back();
      const int64_t reaped = thread->call(wait_call(known_as));
      if (reaped == known_as || reaped == -ECHILD) {
        steps::at(steps::Step::kZombieReaped);
        item.zombie = 0;
      } else {
        std::this_thread::sleep_for(kReapPause);
      }
    }
    return item.zombie == 0 && !item.scratch;
  });
  return remains;
}

}  // namespace sluice
