// Probes of what tells which pages exist and which were written.
#include <fcntl.h>
#include <sys/uio.h>

#include "base/scoped_fd.h"
#include "kernel/abi.h"
#include "kernel/probe_child.h"
#include "kernel/probe_tools.h"
#include "kernel/probes.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr const char* kPagemapAdvice = "needs a kernel with CONFIG_PROC_PAGE_MONITOR";

long open_own_pagemap() { return open_path(proc_path(::getpid(), "pagemap"), O_RDONLY); }

// Regions found in `pages`, at most one; negative errno.
long scan(int pagemap, const OwnPages& pages, uint64_t flags, uint64_t mask, uint64_t anyof,
          abi::PageRegion& region) {
  abi::PageScanArg arg{};
  arg.size = sizeof(arg);
  arg.flags = flags;
  arg.start = pages.address(0);
  arg.end = pages.address(0) + pages.bytes();
  arg.vec = reinterpret_cast<uint64_t>(&region);
  arg.vec_len = 1;
  arg.category_mask = mask;
  arg.category_anyof_mask = anyof;
  arg.return_mask = mask | anyof;
  return sys::call(SYS_ioctl, pagemap, abi::kPagemapScan, &arg);
}

// What arms and collects in one step.
long collect_written(int pagemap, const OwnPages& pages) {
  abi::PageRegion region{};
  return scan(pagemap, pages, abi::kScanWpMatching | abi::kScanCheckWpAsync, abi::kPageIsWritten,
              abi::kPageIsPresent | abi::kPageIsSwapped, region);
}

// Written by the child, read by the parent.
struct SoftDirtyFindings {
  long cleared;           // result of the write to clear_refs, or of opening it
  long read;              // result of reading pagemap, or of opening it
  uint64_t entry_before;  // pagemap entry after clearing, before writing
  uint64_t entry_after;
};

struct SoftDirtyTrial {
  SoftDirtyFindings* findings;
  volatile unsigned char* page;
};

long raw_open(const char* path, int flags) {
  return sys::detail::raw(SYS_openat, AT_FDCWD, reinterpret_cast<long>(path), flags, 0, 0, 0);
}

long raw_read_entry(long fd, const volatile void* page, uint64_t& entry) {
  const auto index = reinterpret_cast<uint64_t>(page) / kPageBytes;
  return sys::detail::raw(SYS_pread64, fd, reinterpret_cast<long>(&entry), sizeof(entry),
                          static_cast<long>(index * sizeof(entry)), 0, 0);
}

// In the child: clearing the bits in the dumper itself would disturb whoever tracks the dumper.
void try_soft_dirty(void* argument) {
  const SoftDirtyTrial& trial = *static_cast<SoftDirtyTrial*>(argument);
  SoftDirtyFindings& found = *trial.findings;
  *trial.page = 1;
  const long clear_refs = raw_open("/proc/self/clear_refs", O_WRONLY);
  found.cleared = clear_refs < 0 ? clear_refs
                                 : sys::detail::raw(SYS_write, clear_refs,
                                                    reinterpret_cast<long>("4"), 1, 0, 0, 0);
  const long pagemap = raw_open("/proc/self/pagemap", O_RDONLY);
  found.read = pagemap < 0 ? pagemap : raw_read_entry(pagemap, trial.page, found.entry_before);
  if (found.read < 0) {
    return;
  }
  *trial.page = 2;
  found.read = raw_read_entry(pagemap, trial.page, found.entry_after);
}

// Opens a userfaultfd with the feature; `user_mode_only` tells that the caller may have no other.
long open_uffd(bool& user_mode_only) {
  long fd = sys::call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  user_mode_only = fd == -EPERM;
  if (user_mode_only) {
    fd = sys::call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | abi::kUffdUserModeOnly);
  }
  return fd;
}

}  // namespace

Probe probe_pagemap() {
  const long opened = open_own_pagemap();
  if (opened < 0) {
    return probe_failed("openat", opened, kPagemapAdvice);
  }
  const ScopedFd fd(static_cast<int>(opened));
  const OwnPages pages(1);
  *pages.page(0) = 1;
  uint64_t entry = 0;
  const long got = sys::call(SYS_pread64, fd.get(), &entry, sizeof(entry),
                             pages.address(0) / kPageBytes * sizeof(entry));
  if (got != sizeof(entry)) {
    return probe_failed("pread64", got < 0 ? got : -EIO, kPagemapAdvice);
  }
  if ((entry & (abi::kPagemapPresent | abi::kPagemapSwapped)) == 0) {
    return {false, "a page that was just written does not show in /proc/self/pagemap"};
  }
  return {true, ""};
}

Probe probe_pagemap_scan() {
  const long opened = open_own_pagemap();
  if (opened < 0) {
    return probe_failed("openat", opened, kPagemapAdvice);
  }
  const ScopedFd fd(static_cast<int>(opened));
  const OwnPages pages(3);
  *pages.page(1) = 1;
  abi::PageRegion region{};
  const long found = scan(fd.get(), pages, 0, 0, abi::kPageIsPresent | abi::kPageIsSwapped, region);
  if (found < 0) {
    return probe_failed("ioctl", found,
                        "PAGEMAP_SCAN came with Linux 6.7; pagemap is read instead");
  }
  // With huge pages for all memory, writing one page may have made its neighbours exist.
  if (found != 1 || region.start > pages.address(1) || region.end <= pages.address(1)) {
    return {false, "PAGEMAP_SCAN does not find a page that was just written"};
  }
  return {true, ""};
}

Probe probe_uffd_wp_async() {
  bool user_mode_only = false;
  const long opened = open_uffd(user_mode_only);
  if (opened < 0) {
    return probe_failed("userfaultfd", opened,
                        "needs a kernel with CONFIG_USERFAULTFD, and in a container a seccomp "
                        "profile that allows the call");
  }
  const ScopedFd uffd(static_cast<int>(opened));
  const OwnPages pages(1);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = abi::kUffdWpAsync | abi::kUffdWpUnpopulated;
  long result = sys::call(SYS_ioctl, uffd.get(), UFFDIO_API, &api);
  if (result < 0) {
    return probe_failed("ioctl", result, "asynchronous write-protection came with Linux 6.7");
  }
  *pages.page(0) = 1;
  uffdio_register registration{};
  registration.range = {pages.address(0), pages.bytes()};
  registration.mode = UFFDIO_REGISTER_MODE_WP;
  result = sys::call(SYS_ioctl, uffd.get(), UFFDIO_REGISTER, &registration);
  if (result < 0) {
    return probe_failed("ioctl", result, "the kernel does not write-protect anonymous memory");
  }

  const long pagemap = open_own_pagemap();
  if (pagemap < 0) {
    return probe_failed("openat", pagemap, kPagemapAdvice);
  }
  const ScopedFd pagemap_fd(static_cast<int>(pagemap));
  const long armed = collect_written(pagemap_fd.get(), pages);
  const long unwritten = collect_written(pagemap_fd.get(), pages);
  *pages.page(0) = 2;
  const long written = collect_written(pagemap_fd.get(), pages);
  for (const long scanned : {armed, unwritten, written}) {
    if (scanned < 0) {
      return probe_failed("ioctl", scanned, "PAGEMAP_SCAN cannot arm the write-protection");
    }
  }
  if (armed != 1 || unwritten != 0 || written != 1) {
    return {false, "the kernel does not tell written pages from others"};
  }
  return {true, user_mode_only ? "as an unprivileged user, for faults in user mode" : ""};
}

Probe probe_soft_dirty() {
  const OwnPages shared(1, OwnPages::Sharing::kWithChildren);
  const OwnPages own(1);
  auto& found = *static_cast<SoftDirtyFindings*>(shared.data());
  SoftDirtyTrial trial = {&found, own.page(0)};
  ProbeChild child(try_soft_dirty, &trial);
  if (!child.finish()) {
    return {false, "the child that was to try it was killed"};
  }
  if (found.cleared != 1) {
    return probe_failed("write", found.cleared < 0 ? found.cleared : -EIO,
                        "needs /proc/PID/clear_refs");
  }
  if (found.read != sizeof(found.entry_after)) {
    return probe_failed("pread64", found.read < 0 ? found.read : -EIO, kPagemapAdvice);
  }
  // A kernel without it accepts clear_refs and then shows every page as clean.
  if ((found.entry_before & abi::kPagemapSoftDirty) != 0 ||
      (found.entry_after & abi::kPagemapSoftDirty) == 0) {
    return {false, "written pages are not marked; needs a kernel with CONFIG_MEM_SOFT_DIRTY"};
  }
  return {true, ""};
}

}  // namespace sluice
