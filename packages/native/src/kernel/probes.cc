#include "kernel/probes.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <algorithm>

#include "base/error.h"
#include "base/scoped_fd.h"
#include "kernel/probe_tools.h"
#include "kernel/proc_file.h"
#include "kernel/proc_maps.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr size_t kMostPipeBytes = size_t{16} << 20;

constexpr const char* kSeccompAdvice =
    "if this is a container, allow the call in its seccomp profile";

struct Pipe {
  ScopedFd read_end;
  ScopedFd write_end;
};

// Negative errno on failure.
long open_pipe(Pipe& pipe) {
  int fds[2] = {-1, -1};
  const long result = sys::call(SYS_pipe2, &fds[0], O_CLOEXEC | O_NONBLOCK);
  if (result == 0) {
    pipe.read_end.reset(fds[0]);
    pipe.write_end.reset(fds[1]);
  }
  return result;
}

// The probe's finding, also when it could not be tried.
template <typename Try>
auto tried(Try probe) -> decltype(probe()) {
  try {
    return probe();
  } catch (const Error& error) {
    decltype(probe()) finding;
    finding.detail = error.what();
    return finding;
  }
}

}  // namespace

Probe probe_pidfd_getfd() {
  const long opened = sys::call(SYS_pidfd_open, ::getpid(), 0);
  if (opened < 0) {
    return probe_failed("pidfd_open", opened, kSeccompAdvice);
  }
  const ScopedFd pidfd(static_cast<int>(opened));
  const long taken = sys::call(SYS_pidfd_getfd, pidfd.get(), pidfd.get(), 0);
  if (taken < 0) {
    return probe_failed("pidfd_getfd", taken, kSeccompAdvice);
  }
  const ScopedFd copy(static_cast<int>(taken));
  return {true, ""};
}

VmspliceProbe probe_vmsplice() {
  Pipe pipe;
  const long opened = open_pipe(pipe);
  if (opened < 0) {
    return {probe_failed("pipe2", opened, ""), false};
  }
  const OwnPages pages(1);
  constexpr unsigned char kBefore = 1;
  constexpr unsigned char kAfter = 2;
  *pages.page(0) = kBefore;
  iovec vec = {pages.data(), pages.bytes()};
  const long spliced = sys::call(SYS_vmsplice, pipe.write_end.get(), &vec, 1, 0);
  if (spliced < 0) {
    return {probe_failed("vmsplice", spliced, kSeccompAdvice), false};
  }
  // A pipe that refers to the page shows what is written to it now; one that has a copy does not.
  *pages.page(0) = kAfter;
  unsigned char seen = 0;
  const long got = sys::call(SYS_read, pipe.read_end.get(), &seen, 1);
  if (got != 1) {
    return {probe_failed("read", got == 0 ? -EPIPE : got, "the pipe gave nothing back"), false};
  }
  const bool zero_copy = seen == kAfter;
  return {{true, zero_copy ? "zero-copy" : "the kernel copies the bytes"}, zero_copy};
}

Probe probe_process_vm_readv() {
  const OwnPages pages(1);
  *pages.page(0) = 1;
  unsigned char seen = 0;
  iovec local = {&seen, 1};
  iovec remote = {pages.data(), 1};
  const long got = sys::call(SYS_process_vm_readv, ::getpid(), &local, 1, &remote, 1, 0);
  if (got != 1 || seen != 1) {
    return probe_failed("process_vm_readv", got < 0 ? got : -EIO, kSeccompAdvice);
  }
  return {true, ""};
}

Probe probe_map_files() {
  const pid_t self = ::getpid();
  const std::vector<Mapping> maps = read_maps(self);
  const auto file = std::find_if(maps.begin(), maps.end(),
                                 [](const Mapping& m) { return has_file(m) && !is_deleted(m); });
  if (file == maps.end()) {
    return {false, "this process has no file mapped to try it with"};
  }
  char name[64];
  std::snprintf(name, sizeof(name), "map_files/%lx-%lx", file->start, file->end);
  const long opened = open_path(proc_path(self, name), O_RDONLY);
  if (opened < 0) {
    return probe_failed("openat", opened,
                        "opening /proc/PID/map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN "
                        "in the initial user namespace; run Sluice as root");
  }
  const ScopedFd fd(static_cast<int>(opened));
  return {true, ""};
}

Probe probe_kcmp() {
  const pid_t self = ::getpid();
  const long result = sys::call(SYS_kcmp, self, self, KCMP_VM, 0, 0);
  if (result != 0) {
    return probe_failed("kcmp", result < 0 ? result : -EIO,
                        "needs a kernel with CONFIG_KCMP; in a container also a seccomp profile "
                        "that allows the call");
  }
  return {true, ""};
}

PipeSizeProbe probe_pipe_size() {
  Pipe pipe;
  long result = open_pipe(pipe);
  if (result < 0) {
    return {probe_failed("pipe2", result, ""), 0};
  }
  for (size_t bytes = kMostPipeBytes; bytes >= kPageBytes; bytes /= 2) {
    result = sys::call(SYS_fcntl, pipe.write_end.get(), F_SETPIPE_SZ, bytes);
    if (result >= 0) {
      const auto set = static_cast<size_t>(result);
      std::string detail = std::to_string(set) + " bytes";
      if (set < kMostPipeBytes) {
        detail += "; CAP_SYS_RESOURCE or a higher /proc/sys/fs/pipe-max-size would give more";
      }
      return {{true, std::move(detail)}, set};
    }
  }
  return {probe_failed("fcntl", result, "raise /proc/sys/fs/pipe-max-size"), 0};
}

KernelFacts kernel_facts(const std::string& dir) {
  KernelFacts facts;
  utsname names{};
  if (::uname(&names) == 0) {
    facts.release = names.release;
    facts.machine = names.machine;
  }
  facts.page_size_bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  facts.ptrace_seize = tried(probe_ptrace_seize);
  facts.pidfd_getfd = tried(probe_pidfd_getfd);
  facts.vmsplice = tried(probe_vmsplice);
  facts.process_vm_readv = tried(probe_process_vm_readv);
  facts.pagemap_scan = tried(probe_pagemap_scan);
  facts.pagemap = tried(probe_pagemap);
  facts.map_files = tried(probe_map_files);
  facts.uffd_wp_async = tried(probe_uffd_wp_async);
  facts.soft_dirty = tried(probe_soft_dirty);
  facts.kcmp = tried(probe_kcmp);
  facts.suspend_seccomp = tried(probe_suspend_seccomp);
  facts.o_direct = tried([&dir] { return probe_direct_io(dir); });
  facts.pipe_size = tried(probe_pipe_size);
  return facts;
}

}  // namespace sluice
