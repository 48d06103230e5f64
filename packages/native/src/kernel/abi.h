// Kernel ABI that is newer than the headers of the oldest supported distribution. Names are our
// own, so that nothing clashes where the system's headers have it; the asserts compare with the
// headers that do, and with the layout that the kernel documents.
#pragma once

#include <linux/ptrace.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace sluice::abi {

// ---- /proc/PID/pagemap: one 64-bit entry per page, Documentation/admin-guide/mm/pagemap.rst

inline constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;
inline constexpr uint64_t kPagemapSwapped = uint64_t{1} << 62;
// File page or shared anonymous page.
inline constexpr uint64_t kPagemapFile = uint64_t{1} << 61;
inline constexpr uint64_t kPagemapGuard = uint64_t{1} << 58;
inline constexpr uint64_t kPagemapUffdWp = uint64_t{1} << 57;
inline constexpr uint64_t kPagemapExclusive = uint64_t{1} << 56;
inline constexpr uint64_t kPagemapSoftDirty = uint64_t{1} << 55;
// Zero for readers without CAP_SYS_ADMIN.
inline constexpr uint64_t kPagemapPfnMask = kPagemapSoftDirty - 1;

// ---- ioctl PAGEMAP_SCAN on that file, Linux 6.7

enum PageCategory : uint64_t {
  kPageIsWpAllowed = 1 << 0,  // in a VMA registered with an asynchronous write-protect userfaultfd
  kPageIsWritten = 1 << 1,
  kPageIsFile = 1 << 2,
  kPageIsPresent = 1 << 3,
  kPageIsSwapped = 1 << 4,
  kPageIsPfnZero = 1 << 5,
  kPageIsHuge = 1 << 6,
  kPageIsSoftDirty = 1 << 7,
  kPageIsGuard = 1 << 8,  // Linux 6.15
};

enum PageScanFlag : uint64_t {
  kScanWpMatching = 1 << 0,
  kScanCheckWpAsync = 1 << 1,
};

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct PageScanArg {
  uint64_t size;  // of this structure
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;  // out: where the walk stopped
  uint64_t vec;       // PageRegion[vec_len]
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PageScanArg);

static_assert(sizeof(PageRegion) == 24);
static_assert(sizeof(PageScanArg) == 96);
static_assert(offsetof(PageScanArg, walk_end) == 32);
static_assert(offsetof(PageScanArg, max_pages) == 56);
static_assert(offsetof(PageScanArg, return_mask) == 88);
static_assert(kPagemapScan == 0xc0606610);
#ifdef PAGEMAP_SCAN
static_assert(kPagemapScan == PAGEMAP_SCAN);
static_assert(kPageIsSoftDirty == PAGE_IS_SOFT_DIRTY);
#endif

// ---- userfaultfd

inline constexpr uint64_t kUffdWpUnpopulated = 1 << 13;  // Linux 6.4
inline constexpr uint64_t kUffdWpAsync = 1 << 15;        // Linux 6.7
// Flag of userfaultfd(2) that unprivileged callers must give.
inline constexpr long kUffdUserModeOnly = 1;

static_assert(kUffdUserModeOnly == UFFD_USER_MODE_ONLY);
static_assert(sizeof(uffdio_api) == 24);
static_assert(sizeof(uffdio_register) == 32);
#ifdef UFFD_FEATURE_WP_UNPOPULATED
static_assert(kUffdWpUnpopulated == UFFD_FEATURE_WP_UNPOPULATED);
#endif
#ifdef UFFD_FEATURE_WP_ASYNC
static_assert(kUffdWpAsync == UFFD_FEATURE_WP_ASYNC);
#endif

// ---- ptrace; glibc's <sys/ptrace.h> has an enum without this option

inline constexpr long kPtraceSuspendSeccomp = 1 << 21;

#ifdef PTRACE_O_SUSPEND_SECCOMP
static_assert(kPtraceSuspendSeccomp == PTRACE_O_SUSPEND_SECCOMP);
#endif

// ---- rt_sigaction(2), as the kernel has it; that of the C library is another

inline constexpr int kSignals = 64;

struct KernelSigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};
static_assert(sizeof(KernelSigaction) == 32);

// ---- capabilities: numbers of bits in the masks of /proc/PID/status

inline constexpr unsigned kCapSysPtrace = 19;
inline constexpr unsigned kCapSysAdmin = 21;
inline constexpr unsigned kCapSysResource = 24;
inline constexpr unsigned kCapCheckpointRestore = 40;

}  // namespace sluice::abi
