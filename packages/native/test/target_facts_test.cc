#include "kernel/target_facts.h"

#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <thread>

#include "check.h"
#include "child.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"
#include "tools.h"

namespace sluice::test {
namespace {

bool mentions(const TargetFacts& facts, const std::string& text) {
  return facts.refusal_detail.find(text) != std::string::npos;
}

bool may_trace_anything() {
  const auto self = read_status(::getpid());
  return self && self->has_capability(19);
}

// Becomes a user of its own, who may still be traced by himself.
bool become(uid_t uid) {
  return ::setresgid(uid, uid, uid) == 0 && ::setresuid(uid, uid, uid) == 0;
}

// AddressSanitizer does not know the stack that it runs on.
__attribute__((no_sanitize("address"))) int pause_forever(void*) {
  for (;;) {
    ::syscall(SYS_pause);
  }
}

}  // namespace

TEST(target_dumpable) {
  const Child child([] { ::prctl(PR_SET_NAME, "a target"); });
  const TargetFacts facts = target_facts(child.pid());
  CHECK_EQ(facts.refusal, "");
  CHECK_EQ(facts.refusal_detail, "");
  CHECK_EQ(facts.pid, child.pid());
  CHECK_EQ(facts.name, "a target");
  CHECK(facts.state == "S" || facts.state == "R");
  CHECK_EQ(facts.threads, 1u);
  CHECK_EQ(facts.tracer_pid, 0);
  require_dumpable(child.pid());
}

TEST(target_no_such_process) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  for (const pid_t absent : {pid, pid_t{0}, pid_t{-1}, pid_t{INT32_MAX}}) {
    const TargetFacts facts = target_facts(absent);
    CHECK_EQ(facts.refusal, "NO_SUCH_PROCESS");
    CHECK(mentions(facts, std::to_string(absent)));
    CHECK_EQ(facts.state, "");
  }
  CHECK_THROWS("NO_SUCH_PROCESS", require_dumpable(pid));
}

TEST(target_self_by_any_thread) {
  CHECK_EQ(target_facts(::getpid()).refusal, "SELF");
  TargetFacts facts;
  std::thread([&facts] { facts = target_facts(static_cast<pid_t>(::syscall(SYS_gettid))); }).join();
  CHECK_EQ(facts.refusal, "SELF");
  CHECK_THROWS("SELF", require_dumpable(::getpid()));
}

TEST(target_that_shares_our_memory) {
  alignas(16) static char stack[65536];
  const int pid = ::clone(pause_forever, stack + sizeof(stack), CLONE_VM, nullptr);
  CHECK(pid > 0);
  const TargetFacts facts = target_facts(pid);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, __WALL);
  CHECK_EQ(facts.refusal, "SELF");
}

TEST(target_thread_of_another) {
  const Child child([] { std::thread([] { ::pause(); }).detach(); });
  const auto threads = threads_of(child.pid());
  CHECK_EQ(threads.size(), 2u);
  const pid_t tid = threads[threads[0] == child.pid() ? 1 : 0];
  const TargetFacts facts = target_facts(tid);
  CHECK_EQ(facts.refusal, "NO_SUCH_PROCESS");
  CHECK(mentions(facts, "is a thread of " + std::to_string(child.pid())));
  CHECK_EQ(target_facts(child.pid()).refusal, "");
  CHECK_EQ(target_facts(child.pid()).threads, 2u);
}

TEST(target_zombie) {
  const Child child([] {});
  ::kill(child.pid(), SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
  const TargetFacts facts = target_facts(child.pid());
  CHECK_EQ(facts.refusal, "ZOMBIE");
  CHECK_EQ(facts.state, "Z");
  CHECK(mentions(facts, "reap"));
}

TEST(target_whose_main_thread_ended) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::thread([] { ::pause(); }).detach();
    ::syscall(SYS_exit, 0);
  }
  TargetFacts facts;
  do {
    facts = target_facts(pid);
  } while (facts.state != "Z");
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, __WALL);
  CHECK_EQ(facts.refusal, "ZOMBIE");
  CHECK(mentions(facts, "main thread"));
}

TEST(target_kernel_thread) {
  const auto stat = read_stat(2);
  if (!stat || !stat->is_kernel_thread()) {
    SKIP("kernel threads are not visible in this pid namespace");
  }
  CHECK_EQ(target_facts(2).refusal, "KERNEL_THREAD");
}

TEST(target_ancestors) {
  const auto self = read_status(::getpid());
  CHECK(self.has_value());
  if (self->ppid == 0) {
    SKIP("no ancestors in this pid namespace");
  }
  // Not always up to 1: what was started from outside of the pid namespace has a parent there.
  for (pid_t pid = self->ppid; pid != 0; pid = read_status(pid)->ppid) {
    CHECK_EQ(target_facts(pid).refusal, "ANCESTOR");
    CHECK_THROWS("ANCESTOR", require_dumpable(pid));
  }
}

TEST(target_already_traced) {
  const Child child([] {});
  CHECK_EQ(::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr), 0);
  const TargetFacts facts = target_facts(child.pid());
  CHECK_EQ(facts.refusal, "ALREADY_TRACED");
  CHECK_EQ(facts.tracer_pid, ::getpid());
  CHECK(mentions(facts, "traced by process " + std::to_string(::getpid())));
}

TEST(target_with_one_traced_thread) {
  int tell[2];
  CHECK(::pipe(tell) == 0);
  const Child child([&tell] {
    std::thread([&tell] {
      const auto tid = static_cast<pid_t>(::syscall(SYS_gettid));
      (void)!::write(tell[1], &tid, sizeof(tid));
      ::pause();
    }).detach();
  });
  pid_t tid = 0;
  const ssize_t got = ::read(tell[0], &tid, sizeof(tid));
  ::close(tell[0]);
  ::close(tell[1]);
  CHECK_EQ(got, static_cast<ssize_t>(sizeof(tid)));
  CHECK_EQ(::ptrace(PTRACE_SEIZE, tid, nullptr, nullptr), 0);
  const TargetFacts facts = target_facts(child.pid());
  ::kill(child.pid(), SIGKILL);
  ::waitpid(tid, nullptr, __WALL);
  CHECK_EQ(facts.refusal, "ALREADY_TRACED");
  CHECK_EQ(facts.tracer_pid, ::getpid());
}

TEST(target_permission_denied_by_the_kernel) {
  const Child child([] {});
  sys::set_faults({{.number = SYS_openat, .skip = 0, .errnum = EACCES}});
  CHECK_EQ(target_facts(child.pid()).refusal, "PERMISSION");
}

TEST(target_of_another_user) {
  if (!may_trace_anything() || ::geteuid() != 0) {
    SKIP("not root, there is no other user to be");
  }
  const Child child([] {});
  const int result = run_in_child([pid = child.pid()] {
    if (!become(65534)) {
      return 1;
    }
    const TargetFacts facts = target_facts(pid);
    return facts.refusal != "PERMISSION"                                     ? 2
           : !mentions(facts, "belongs to user 0")                           ? 3
           : facts.refusal_call != "openat" || facts.refusal_errno != EACCES ? 4
                                                                             : 0;
  });
  CHECK_EQ(result, 0);
}

TEST(target_of_same_user_that_is_not_dumpable) {
  if (::geteuid() != 0) {
    SKIP("not root, no capabilities to give up");
  }
  const Child child([] {
    become(65534);
    ::prctl(PR_SET_DUMPABLE, 0);
  });
  const int result = run_in_child([pid = child.pid()] {
    if (!become(65534)) {
      return 1;
    }
    ::prctl(PR_SET_DUMPABLE, 1);
    const TargetFacts facts = target_facts(pid);
    return facts.refusal != "PERMISSION" ? 2 : facts.refusal_detail.empty() ? 3 : 0;
  });
  CHECK_EQ(result, 0);
}

TEST(target_hidden_from_this_user) {
  const Child child([] {});
  // As with hidepid: no entry in /proc, and a kernel that says "not yours".
  sys::set_faults(
      {{.number = SYS_openat, .errnum = ENOENT}, {.number = SYS_kill, .errnum = EPERM}});
  const TargetFacts facts = target_facts(child.pid());
  CHECK_EQ(facts.refusal, "PERMISSION");
  CHECK(mentions(facts, "hidepid"));
}

TEST(target_proc_of_another_namespace) {
  if (::geteuid() != 0) {
    SKIP("not root, cannot make a pid namespace");
  }
  const Child child([] {});
  const int result = run_in_child([pid = child.pid()] {
    if (::unshare(CLONE_NEWPID) != 0) {
      return 100;
    }
    return run_in_child([pid] {
      const TargetFacts facts = target_facts(pid);
      return facts.refusal == "PROC_MISMATCH" && mentions(facts, "pid namespace") ? 0 : 2;
    });
  });
  if (result == 100) {
    SKIP("pid namespaces are not allowed here");
  }
  CHECK_EQ(result, 0);
}

TEST(target_without_proc) {
  sys::set_faults({{.number = SYS_readlinkat, .errnum = ENOENT}});
  CHECK_EQ(target_facts(::getpid()).refusal, "PROC_MISMATCH");
}

// A 32-bit program of 92 bytes: headers and `int 0x80` for pause(2), again and again.
TEST(target_of_32_bits) {
  struct Program {
    Elf32_Ehdr header;
    Elf32_Phdr segment;
    unsigned char code[9];
  } program = {};
  constexpr uint32_t kBase = 0x08048000;
  program.header = {{0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                    ET_EXEC,
                    EM_386,
                    EV_CURRENT,
                    kBase + offsetof(Program, code),
                    sizeof(Elf32_Ehdr),
                    0,
                    0,
                    sizeof(Elf32_Ehdr),
                    sizeof(Elf32_Phdr),
                    1,
                    0,
                    0,
                    0};
  program.segment = {PT_LOAD, 0, kBase, kBase, sizeof(Program), sizeof(Program), PF_R | PF_X, 4096};
  const unsigned char code[] = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};
  std::copy(std::begin(code), std::end(code), program.code);

  const int fd = ::memfd_create("thirty-two", MFD_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(::write(fd, &program, sizeof(program)), static_cast<ssize_t>(sizeof(program)));
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    char name[] = "thirty-two";
    char* const arguments[] = {name, nullptr};
    ::fexecve(fd, arguments, arguments + 1);
    ::_exit(1);
  }
  ::close(fd);
  TargetFacts facts;
  bool ended = false;
  do {  // until it has called execve
    facts = target_facts(pid);
    ended = ::waitpid(pid, nullptr, WNOHANG) == pid;
  } while (!ended && facts.refusal.empty());
  if (ended) {
    SKIP("this kernel runs no 32-bit programs");
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, __WALL);
  CHECK_EQ(facts.refusal, "UNSUPPORTED_TARGET");
  CHECK(mentions(facts, "64-bit"));
}

}  // namespace sluice::test
