// Probe of O_DIRECT where images would go.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cstdio>

#include "base/scoped_fd.h"
#include "kernel/probe_tools.h"
#include "kernel/probes.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

struct FileSystem {
  uint32_t magic;
  const char* name;
  // Checksums or mirrors data by what it reads twice.
  bool needs_stable_pages;
};

constexpr FileSystem kFileSystems[] = {
    {0x9123683e, "btrfs", true},  {0x2fc12fc1, "zfs", true},      {0xca451a4e, "bcachefs", true},
    {0xef53, "ext4", false},      {0x58465342, "xfs", false},     {0xf2f52010, "f2fs", false},
    {0x01021994, "tmpfs", false}, {0x794c7630, "overlay", false}, {0x6969, "nfs", false},
};

// Device nodes of a file system that lives on one: md parity, or a transport with checksums, say
// that they need pages that stand still. A partition has no queue of its own.
bool device_needs_stable_pages(dev_t device) {
  char path[96];
  for (const char* parent : {"", "../"}) {
    std::snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/stable_writes", major(device),
                  minor(device), parent);
    const auto flag = read_kernel_file(path);
    if (flag) {
      return flag->starts_with('1');
    }
  }
  return false;
}

// A file without a name for writing; negative errno. O_TMPFILE is not everywhere: then a named one
// whose name is taken away at once.
long open_unnamed(const std::string& dir, int flags) {
  const long opened = sys::call_restarting(SYS_openat, AT_FDCWD, dir.c_str(),
                                           O_TMPFILE | O_WRONLY | O_CLOEXEC | flags, 0600);
  if (opened != -EOPNOTSUPP && opened != -EISDIR) {
    return opened;
  }
  const std::string path = dir + "/.sluice-probe-" + std::to_string(::getpid()) + "-" +
                           std::to_string(::syscall(SYS_gettid));
  const long named = sys::call_restarting(SYS_openat, AT_FDCWD, path.c_str(),
                                          O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | flags, 0600);
  // Some file systems create the file and then refuse the flag.
  if (named >= 0 || named == -EINVAL) {
    ::unlink(path.c_str());
  }
  return named;
}

std::string describe(const DirectIoProbe& probe, const char* file_system) {
  std::string text = *file_system == '\0' ? "" : std::string(file_system) + ", ";
  text += "aligned to " + std::to_string(probe.memory_align) + " bytes in memory and " +
          std::to_string(probe.offset_align) + " in the file";
  if (probe.needs_stable_pages) {
    text += "; not from pages that may change while they are written";
  }
  return text;
}

}  // namespace

DirectIoProbe probe_direct_io(const std::string& dir) {
  DirectIoProbe probe;
  const long opened = open_unnamed(dir, O_DIRECT);
  if (opened < 0) {
    static_cast<Probe&>(probe) = probe_failed(
        "openat", opened,
        opened == -EINVAL ? "the file system has no O_DIRECT; images go through the page cache"
                          : "no file can be made in the directory for images");
    return probe;
  }
  const ScopedFd fd(static_cast<int>(opened));

  const char* name = "";
  struct statfs about{};
  if (::fstatfs(fd.get(), &about) == 0) {
    for (const FileSystem& known : kFileSystems) {
      if (known.magic == static_cast<uint32_t>(about.f_type)) {
        name = known.name;
        probe.needs_stable_pages = known.needs_stable_pages;
      }
    }
  }
  struct statx facts{};
  if (::statx(fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0) {
    probe.needs_stable_pages |=
        device_needs_stable_pages(makedev(facts.stx_dev_major, facts.stx_dev_minor));
    if ((facts.stx_mask & STATX_DIOALIGN) != 0 && facts.stx_dio_mem_align != 0) {
      probe.memory_align = facts.stx_dio_mem_align;
      probe.offset_align = facts.stx_dio_offset_align;
    }
  }

  const OwnPages pages(1);
  *pages.page(0) = 1;
  const long written = sys::call(SYS_pwrite64, fd.get(), pages.data(), pages.bytes(), 0);
  if (written != static_cast<long>(pages.bytes())) {
    static_cast<Probe&>(probe) = probe_failed("pwrite64", written < 0 ? written : -ENOSPC,
                                              "images go through the page cache");
    return probe;
  }
  probe.ok = true;
  probe.detail = describe(probe, name);
  return probe;
}

}  // namespace sluice
