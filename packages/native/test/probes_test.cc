// What a probe finds depends on the kernel, so these tests compare it with what the same kernel
// does when asked in another way, and force each refusal with the seam.
#include "kernel/probes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>

#include "base/scoped_fd.h"
#include "check.h"
#include "child.h"
#include "kernel/probe_child.h"
#include "kernel/proc_status.h"
#include "kernel/syscalls.h"
#include "tools.h"

namespace sluice::test {
namespace {

std::atomic<int> g_sigchld_count{0};
void count_sigchld(int) { ++g_sigchld_count; }

}  // namespace

TEST(probes_leave_nothing_and_send_no_sigchld) {
  const TempDir dir(".");
  struct sigaction count{};
  struct sigaction before{};
  count.sa_handler = count_sigchld;
  ::sigaction(SIGCHLD, &count, &before);
  g_sigchld_count = 0;
  const KernelFacts facts = kernel_facts(dir.path());
  ::sigaction(SIGCHLD, &before, nullptr);
  CHECK_EQ(g_sigchld_count.load(), 0);
  CHECK(dir.empty());

  utsname names{};
  ::uname(&names);
  CHECK_EQ(facts.release, names.release);
  CHECK_EQ(facts.machine, names.machine);
  CHECK_EQ(facts.page_size_bytes, 4096u);
}

TEST(probes_have_the_names_of_the_contract_and_say_why_not) {
  const TempDir dir(".");
  const KernelFacts facts = kernel_facts(dir.path());
  std::set<std::string> names;
  for_each_probe(facts, [&names](const char* name, const Probe& probe) {
    names.insert(name);
    if (!probe.ok && probe.detail.empty()) {
      throw Failure{__FILE__, __LINE__, std::string(name) + " does not say why not"};
    }
  });
  const std::set<std::string> expected = {
      "ptraceSeize",    "pidfdGetfd", "vmsplice",    "processVmReadv", "pagemapScan",
      "pagemap",        "mapFiles",   "uffdWpAsync", "softDirty",      "kcmp",
      "suspendSeccomp", "oDirect",    "pipeSize"};
  CHECK(names == expected);
}

// On every kernel that the tests run on.
TEST(probes_basics_work_here) {
  CHECK(probe_vmsplice().ok);
  CHECK(probe_process_vm_readv().ok);
  CHECK(probe_pagemap().ok);
  CHECK(probe_ptrace_seize().ok);
  CHECK(probe_pidfd_getfd().ok);
}

TEST(probes_vmsplice_tells_copying_from_zero_copy) {
  const VmspliceProbe real = probe_vmsplice();
  CHECK(real.ok);
  CHECK_EQ(real.detail, real.zero_copy ? "zero-copy" : "the kernel copies the bytes");
  sys::set_faults({{.number = SYS_vmsplice, .copy = true}});
  const VmspliceProbe copying = probe_vmsplice();
  CHECK(copying.ok);
  CHECK(!copying.zero_copy);
  CHECK_EQ(copying.detail, "the kernel copies the bytes");
}

TEST(probes_pipe_size) {
  const PipeSizeProbe real = probe_pipe_size();
  CHECK(real.ok);
  CHECK(real.max_bytes >= 4096);
  CHECK(real.max_bytes <= size_t{16} << 20);
  sys::set_faults({{.number = SYS_fcntl, .times = 4, .errnum = EPERM}});
  const PipeSizeProbe limited = probe_pipe_size();
  CHECK(limited.ok);
  CHECK(limited.max_bytes <= size_t{1} << 20);
  CHECK(limited.detail.find("pipe-max-size") != std::string::npos);
  sys::set_faults({{.number = SYS_fcntl, .errnum = EPERM}});
  const PipeSizeProbe none = probe_pipe_size();
  CHECK(!none.ok);
  CHECK_EQ(none.max_bytes, 0u);
}

TEST(probes_refusals_name_call_and_errno) {
  struct Case {
    long number;
    Probe (*probe)();
    const char* call;
  };
  const Case cases[] = {
      {SYS_ptrace, probe_ptrace_seize, "ptrace"},
      {SYS_ptrace, probe_suspend_seccomp, "ptrace"},
      {SYS_pidfd_open, probe_pidfd_getfd, "pidfd_open"},
      {SYS_pidfd_getfd, probe_pidfd_getfd, "pidfd_getfd"},
      {SYS_vmsplice, [] { return Probe(probe_vmsplice()); }, "vmsplice"},
      {SYS_pipe2, [] { return Probe(probe_vmsplice()); }, "pipe2"},
      {SYS_process_vm_readv, probe_process_vm_readv, "process_vm_readv"},
      {SYS_pread64, probe_pagemap, "pread64"},
      {SYS_openat, probe_pagemap, "openat"},
      {SYS_ioctl, probe_pagemap_scan, "ioctl"},
      {SYS_userfaultfd, probe_uffd_wp_async, "userfaultfd"},
      {SYS_ioctl, probe_uffd_wp_async, "ioctl"},
      {SYS_kcmp, probe_kcmp, "kcmp"},
      {SYS_openat, [] { return Probe(probe_direct_io(".")); }, "openat"},
  };
  for (const Case& c : cases) {
    sys::set_faults({{.number = c.number, .errnum = EPERM}});
    const Probe probe = c.probe();
    CHECK(!probe.ok);
    CHECK_EQ(probe.detail.substr(0, probe.detail.find(';')),
             std::string(c.call) + ": Operation not permitted");
  }
}

TEST(probes_that_cannot_be_tried_are_not_ok) {
  sys::set_faults(
      {{.number = SYS_clone, .errnum = EAGAIN}, {.number = SYS_mmap, .errnum = ENOMEM}});
  CHECK_THROWS("SYSTEM", probe_ptrace_seize());
  const KernelFacts facts = kernel_facts(".");
  CHECK(!facts.ptrace_seize.ok);
  CHECK(facts.ptrace_seize.detail.find("clone") != std::string::npos);
  CHECK(!facts.soft_dirty.ok);
  CHECK(!facts.vmsplice.ok);
  CHECK(facts.kcmp.ok == probe_kcmp().ok);
}

TEST(probes_direct_io) {
  const TempDir dir(".");
  const DirectIoProbe probe = probe_direct_io(dir.path());
  const std::string path = dir.path() + "/file";
  const ScopedFd fd(::open(path.c_str(), O_CREAT | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600));
  CHECK_EQ(probe.ok, static_cast<bool>(fd));
  if (!probe.ok) {
    SKIP("no O_DIRECT in the working directory: " + probe.detail);
  }
  CHECK(probe.memory_align > 0 && probe.memory_align <= 4096);
  CHECK(probe.offset_align > 0 && probe.offset_align <= 4096);
  sys::set_faults({{.number = SYS_pwrite64, .errnum = EPERM}});
  const std::string detail = probe_direct_io(dir.path()).detail;
  CHECK_EQ(detail.substr(0, detail.find(';')), "pwrite64: Operation not permitted");
}

TEST(probes_direct_io_without_tmpfile) {
  const TempDir dir(".");
  const bool ok = probe_direct_io(dir.path()).ok;
  sys::set_faults({{.number = SYS_openat, .times = 1, .errnum = EOPNOTSUPP}});
  CHECK_EQ(probe_direct_io(dir.path()).ok, ok);
  CHECK(dir.empty());
}

TEST(probes_direct_io_says_what_the_file_system_lacks) {
  sys::set_faults({{.number = SYS_openat, .errnum = EINVAL}});
  CHECK(probe_direct_io(".").detail.find("no O_DIRECT") != std::string::npos);
  sys::set_faults({});
  const Probe probe = probe_direct_io("./no/such/directory");
  CHECK(!probe.ok);
  CHECK(probe.detail.find("openat: No such file or directory") != std::string::npos);
}

// As a user without privileges, where this one has any to give up.
TEST(probes_without_privileges) {
  if (::geteuid() != 0) {
    SKIP("not root, nothing to give up");
  }
  const int result = run_in_child([] {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) {
      return 1;
    }
    ::prctl(PR_SET_DUMPABLE, 1);  // as a program that this user had started; setresuid took it
    const KernelFacts facts = kernel_facts("/");
    return facts.map_files.ok || facts.suspend_seccomp.ok || facts.o_direct.ok ? 2
           : !facts.vmsplice.ok || !facts.pagemap.ok                           ? 3
                                                                               : 0;
  });
  CHECK_EQ(result, 0);
}

TEST(probe_child_is_its_own_process) {
  ProbeChild child(sleep_in_child, nullptr);
  const auto status = read_status(child.pid());
  CHECK(status.has_value());
  CHECK_EQ(status->ppid, ::getpid());
  // A wait of other code in this process does not see it.
  CHECK_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
}

TEST(probe_child_finishes) {
  ProbeChild child([](void*) {}, nullptr);
  CHECK(child.finish());
}

TEST(probe_child_killed_is_not_finished) {
  ProbeChild child(sleep_in_child, nullptr);
  ::kill(child.pid(), SIGKILL);
  CHECK(!child.finish());
}

}  // namespace sluice::test
