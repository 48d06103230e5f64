#include "kernel/target_facts.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/kcmp.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

// How often the chain of ancestors is looked at anew because one of them ended meanwhile.
constexpr int kMostLooks = 10;
constexpr int kMostPassingLooks = 200;
constexpr std::chrono::milliseconds kPassingPause{1};

struct Refusal {
  const char* code = "";
  std::string detail;
  const char* call = "";
  int err = 0;
  // Looks the same for moments while a thread other than the first calls execve.
  bool may_pass = false;

  explicit operator bool() const { return *code != '\0'; }
};

std::string naming(pid_t pid) { return "process " + std::to_string(pid); }

Refusal gone(pid_t pid) {
  return {.code = "NO_SUCH_PROCESS", .detail = naming(pid) + " does not exist", .may_pass = true};
}

// All other answers come from /proc: it must be that of our own pid namespace.
Refusal check_proc() {
  char self[32] = "";
  const long length = sys::call(SYS_readlinkat, AT_FDCWD, "/proc/self", &self[0], sizeof(self) - 1);
  if (length < 0) {
    return {.code = "PROC_MISMATCH",
            .detail =
                "/proc does not know this process; mount the proc file system of its own pid "
                "namespace there",
            .call = "readlinkat",
            .err = static_cast<int>(-length)};
  }
  if (std::to_string(::getpid()) != self) {
    return {.code = "PROC_MISMATCH",
            .detail = std::string("/proc belongs to another pid namespace (this process is ") +
                      self + " there and " + std::to_string(::getpid()) +
                      " to itself); mount the proc file system of its own one"};
  }
  return {};
}

// `pid` has no entry in /proc.
Refusal check_absent(pid_t pid) {
  // hidepid shows other users' processes to nobody; the kernel still tells them from none.
  const long result = sys::call(SYS_kill, pid, 0);
  if (result == -EPERM) {
    return {.code = "PERMISSION",
            .detail = naming(pid) +
                      " is hidden from this user (/proc is mounted with hidepid); run "
                      "Sluice as root",
            .call = "kill",
            .err = EPERM};
  }
  return gone(pid);
}

Refusal check_identity(const ProcStatus& status, pid_t pid) {
  if (status.tgid == ::getpid()) {
    return {.code = "SELF",
            .detail = naming(pid) + " is Sluice itself; have another process dump it"};
  }
  if (status.tgid != pid) {
    return {.code = "NO_SUCH_PROCESS",
            .detail = std::to_string(pid) + " is a thread of " + std::to_string(status.tgid) +
                      "; dump process " + std::to_string(status.tgid)};
  }
  if (sys::call(SYS_kcmp, ::getpid(), pid, KCMP_VM, 0, 0) == 0) {
    return {.code = "SELF",
            .detail = naming(pid) +
                      " shares its memory with Sluice itself; have another process "
                      "dump it"};
  }
  return {};
}

Refusal check_kind(const ProcStatus& status, const ProcStat& stat) {
  if (status.is_zombie()) {
    return {.code = "ZOMBIE",
            .detail = status.threads > 1
                          ? "the main thread of " + naming(status.pid) +
                                " has ended, so that the kernel no longer shows its memory"
                          : naming(status.pid) + " has ended and waits for its parent " +
                                std::to_string(status.ppid) + " to reap it",
            .may_pass = true};
  }
  if (status.kernel_thread.value_or(stat.is_kernel_thread())) {
    return {
        .code = "KERNEL_THREAD",
        .detail = naming(status.pid) + " is a thread of the kernel and has no memory of its own"};
  }
  return {};
}

// False if the chain broke: an ancestor ended meanwhile, and its child got another parent.
bool follow_parents(pid_t pid, bool& found) {
  for (pid_t at = ::getpid(); at != 0;) {
    const auto status = read_status(at);
    if (!status) {
      return false;
    }
    at = status->ppid;
    if (at == pid) {
      found = true;
      return true;
    }
  }
  return true;
}

Refusal check_ancestors(pid_t pid) {
  bool found = false;
  try {
    // A chain that stays broken has ancestors that are hidden from us, as `pid` itself is not.
    for (int look = 0; look < kMostLooks && !follow_parents(pid, found); ++look) {
    }
  } catch (const Error& error) {
    if (!error.is("PERMISSION")) {
      throw;
    }
  }
  if (found) {
    return {.code = "ANCESTOR",
            .detail = naming(pid) +
                      " is an ancestor of Sluice and may be waiting for it or reading "
                      "its output"};
  }
  return {};
}

// Any thread that is traced would refuse to be seized.
Refusal check_tracer(const ProcStatus& leader, pid_t pid, pid_t& tracer) {
  tracer = leader.tracer_pid;
  const auto tids = list_threads(pid);
  for (size_t i = 0; tracer == 0 && tids && i < tids->size(); ++i) {
    const auto status = read_thread_status(pid, (*tids)[i]);
    tracer = status ? status->tracer_pid : 0;
  }
  if (tracer == 0) {
    return {};
  }
  const auto about = read_status(tracer);
  return {.code = "ALREADY_TRACED",
          .detail = naming(pid) + " is traced by " + naming(tracer) +
                    (about ? " (" + about->name + ")" : "") +
                    "; a process can have one tracer, end that one first"};
}

// Why the kernel lets us not trace the process, as far as can be seen from outside.
std::string explain_denied(const ProcStatus& target) {
  const auto self = read_status(::getpid());
  if (!self || self->has_capability(abi::kCapSysPtrace)) {
    return "although Sluice has CAP_SYS_PTRACE: the process is in another user namespace, or a "
           "security module such as SELinux or AppArmor forbids it";
  }
  const ProcIds& uids = target.uids;
  const uid_t caller = self->uids.effective;
  if (caller != uids.real || caller != uids.effective || caller != uids.saved) {
    return "it belongs to user " + std::to_string(uids.real) + " and Sluice runs as user " +
           std::to_string(caller) + "; run Sluice as root or as that user";
  }
  const auto yama = read_kernel_file("/proc/sys/kernel/yama/ptrace_scope");
  if (yama && !yama->starts_with('0')) {
    return "/proc/sys/kernel/yama/ptrace_scope is " + yama->substr(0, yama->find('\n')) +
           "; run Sluice as root (CAP_SYS_PTRACE), or set it to 0";
  }
  return "it has capabilities that Sluice has not, or it is not dumpable (a program with "
         "set-user-ID "
         "or file capabilities, or prctl(2) PR_SET_DUMPABLE); run Sluice as root (CAP_SYS_PTRACE)";
}

// The kernel asks for the same permission here as for attaching, Yama included.
Refusal check_permission(const ProcStatus& status, pid_t pid) {
  const std::string path = proc_path(pid, "mem");
  const long opened = sys::call_restarting(SYS_openat, AT_FDCWD, path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened >= 0) {
    const ScopedFd fd(static_cast<int>(opened));
    return {};
  }
  if (opened == -ENOENT || opened == -ESRCH) {
    return gone(pid);
  }
  if (opened == -EACCES || opened == -EPERM) {
    return {.code = "PERMISSION",
            .detail = naming(pid) + " may not be traced: " + explain_denied(status),
            .call = "openat",
            .err = static_cast<int>(-opened)};
  }
  throw Error("SYSTEM", pid, "openat", static_cast<int>(-opened), "cannot open " + path);
}

// A 32-bit program has other registers, other system calls and another signal frame.
Refusal check_architecture(pid_t pid) {
  const std::string path = proc_path(pid, "exe");
  const long opened =
      sys::call_restarting(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (opened < 0) {
    return {};  // no file to look at: nothing says that it is another architecture
  }
  const ScopedFd fd(static_cast<int>(opened));
  Elf64_Ehdr header{};
  const long got = sys::call_restarting(SYS_pread64, fd.get(), &header, sizeof(header), 0);
  if (got != sizeof(header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return {};
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
    return {.code = "UNSUPPORTED_TARGET",
            .detail = naming(pid) + " runs a program that is not for 64-bit x86 (ELF class " +
                      std::to_string(header.e_ident[EI_CLASS]) + ", machine " +
                      std::to_string(header.e_machine) + ")"};
  }
  return {};
}

Refusal check_all(pid_t pid, TargetFacts& facts) {
  if (Refusal refusal = check_proc()) {
    return refusal;
  }
  if (pid <= 0) {
    return {.code = "NO_SUCH_PROCESS", .detail = std::to_string(pid) + " is not a process id"};
  }
  const auto status = read_status(pid);
  const auto stat = read_stat(pid);
  if (!status || !stat) {
    return check_absent(pid);
  }
  facts.start_time_ticks = stat->start_time_ticks;
  facts.name = status->name;
  facts.state = std::string(1, status->state);
  facts.threads = status->threads;
  facts.namespace_pid = status->ns_pids.back();
  facts.seccomp_mode = status->seccomp_mode;
  if (Refusal refusal = check_identity(*status, pid)) {
    return refusal;
  }
  if (Refusal refusal = check_kind(*status, *stat)) {
    return refusal;
  }
  if (Refusal refusal = check_ancestors(pid)) {
    return refusal;
  }
  if (Refusal refusal = check_tracer(*status, pid, facts.tracer_pid)) {
    return refusal;
  }
  if (Refusal refusal = check_permission(*status, pid)) {
    return refusal;
  }
  return check_architecture(pid);
}

// While a thread other than the first calls execve, the first is a zombie for moments, then the
// only thread that is listed, and at last /proc has no entry for the pid. kill(2) finds it all the
// time. A real zombie can wait.
Refusal check_settled(pid_t pid, TargetFacts& facts) {
  for (int look = 0;; ++look) {
    const Refusal refusal = check_all(pid, facts);
    if (!refusal.may_pass || look == kMostPassingLooks || sys::call(SYS_kill, pid, 0) != 0) {
      return refusal;
    }
    std::this_thread::sleep_for(kPassingPause);
  }
}

}  // namespace

TargetFacts target_facts(pid_t pid) {
  TargetFacts facts;
  facts.pid = pid;
  try {
    Refusal refusal = check_settled(pid, facts);
    facts.refusal = refusal.code;
    facts.refusal_detail = std::move(refusal.detail);
    facts.refusal_call = refusal.call;
    facts.refusal_errno = refusal.err;
  } catch (const Error& error) {
    // /proc mounted with hidepid=1 shows that the process is there and nothing else.
    if (!error.is("PERMISSION")) {
      throw;
    }
    facts.refusal = error.code();
    facts.refusal_detail = error.what();  // names call and errno
  }
  return facts;
}

TargetFacts require_dumpable(pid_t pid) {
  TargetFacts facts = target_facts(pid);
  if (!facts.refusal.empty()) {
    throw Error(facts.refusal.c_str(), pid, facts.refusal_call.c_str(), facts.refusal_errno,
                facts.refusal_detail);
  }
  return facts;
}

}  // namespace sluice
