#include "kernel/syscalls.h"

#include <linux/futex.h>

#include <algorithm>
#include <climits>
#include <map>
#include <mutex>

namespace sluice::sys {
namespace {

std::mutex g_mutex;
std::vector<Fault> g_faults;
std::atomic<uint32_t> g_settings{0};  // how often faults were set
std::atomic<uint64_t> g_hits{0};

// In a system call that only its end or that of the task ends, as with a dead file server.
void hang() {
  const uint32_t settings = g_settings.load();
  while (g_settings.load() == settings) {
    ::syscall(SYS_futex, &g_settings, FUTEX_WAIT_PRIVATE, settings, nullptr);
  }
}

// Takes one hit from the first fault that matches, if any is due.
Fault take(long number, bool remote, long request = 0) {
  std::lock_guard<std::mutex> lock(g_mutex);
  for (Fault& fault : g_faults) {
    if (fault.number != number || fault.remote != remote || fault.times == 0 ||
        (fault.request != 0 && fault.request != request)) {
      continue;
    }
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    if (fault.times > 0) {
      --fault.times;
    }
    ++g_hits;
    return fault;
  }
  return Fault{};
}

// Position of the byte count among the arguments of calls that move bytes.
int count_argument(long number) {
  switch (number) {
    case SYS_splice:
      return 4;
    case SYS_read:
    case SYS_write:
    case SYS_pread64:
    case SYS_pwrite64:
      return 2;
    default:
      return -1;
  }
}

// The vector calls count buffers, not bytes.
long capped_vector_call(long number, long* args, int vec_at, int count_at, uint64_t bytes) {
  const auto* source = reinterpret_cast<const iovec*>(args[vec_at]);
  const auto cut = first_bytes({source, static_cast<size_t>(args[count_at])}, bytes);
  args[vec_at] = reinterpret_cast<long>(cut.data());
  args[count_at] = static_cast<long>(cut.size());
  return detail::raw(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

}  // namespace

namespace detail {

std::atomic<bool> g_faulty{false};

long raw(long number, long a, long b, long c, long d, long e, long f) {
  const long result = ::syscall(number, a, b, c, d, e, f);
  return result == -1 ? -errno : result;
}

long faulty_call(long number, long a, long b, long c, long d, long e, long f) {
  const Fault fault = take(number, false, number == SYS_ioctl ? b : 0);
  if (fault.hang) {
    hang();
  }
  if (fault.errnum != 0) {
    return -fault.errnum;
  }
  long args[6] = {a, b, c, d, e, f};
  if (fault.copy && number == SYS_vmsplice) {
    return raw(SYS_writev, a, b, c, 0, 0, 0);
  }
  if (fault.cap_bytes != 0) {
    if (number == SYS_process_vm_readv) {
      return capped_vector_call(number, args, 3, 4, fault.cap_bytes);
    }
    if (number == SYS_vmsplice || number == SYS_writev) {
      return capped_vector_call(number, args, 1, 2, fault.cap_bytes);
    }
    const int at = count_argument(number);
    if (at >= 0 && static_cast<uint64_t>(args[at]) > fault.cap_bytes) {
      args[at] = static_cast<long>(fault.cap_bytes);
    }
  }
  return raw(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

}  // namespace detail

std::vector<iovec> first_bytes(std::span<const iovec> buffers, uint64_t bytes) {
  std::vector<iovec> cut;
  for (size_t i = 0; i < buffers.size() && bytes > 0; ++i) {
    cut.push_back(buffers[i]);
    cut.back().iov_len = std::min<uint64_t>(cut.back().iov_len, bytes);
    bytes -= cut.back().iov_len;
  }
  return cut;
}

void set_faults(std::vector<Fault> faults) {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_faults = std::move(faults);
  detail::g_faulty.store(!g_faults.empty(), std::memory_order_relaxed);
  g_hits = 0;
  ++g_settings;
  ::syscall(SYS_futex, &g_settings, FUTEX_WAKE_PRIVATE, INT_MAX);
}

uint64_t faults_hit() { return g_hits; }

RemoteFault remote_fault(long number) {
  if (!detail::g_faulty.load(std::memory_order_relaxed)) {
    return {};
  }
  const Fault fault = take(number, true);
  if (fault.hang) {
    hang();
  }
  return {fault.errnum, fault.cap_bytes, fault.copy};
}

long number_of(const std::string& name) {
  static const std::map<std::string, long> kNumbers = {
      {"brk", SYS_brk},
      {"clone", SYS_clone},
      {"close_range", SYS_close_range},
      {"fallocate", SYS_fallocate},
      {"fcntl", SYS_fcntl},
      {"flock", SYS_flock},
      {"fsync", SYS_fsync},
      {"ftruncate", SYS_ftruncate},
      {"get_robust_list", SYS_get_robust_list},
      {"ioctl", SYS_ioctl},
      {"kill", SYS_kill},
      {"kcmp", SYS_kcmp},
      {"lseek", SYS_lseek},
      {"madvise", SYS_madvise},
      {"mmap", SYS_mmap},
      {"mprotect", SYS_mprotect},
      {"munmap", SYS_munmap},
      {"openat", SYS_openat},
      {"pidfd_getfd", SYS_pidfd_getfd},
      {"pidfd_open", SYS_pidfd_open},
      {"pipe2", SYS_pipe2},
      {"pread64", SYS_pread64},
      {"prlimit64", SYS_prlimit64},
      {"process_vm_readv", SYS_process_vm_readv},
      {"process_vm_writev", SYS_process_vm_writev},
      {"ptrace", SYS_ptrace},
      {"pwrite64", SYS_pwrite64},
      {"read", SYS_read},
      {"readlinkat", SYS_readlinkat},
      {"rt_sigaction", SYS_rt_sigaction},
      {"sched_setscheduler", SYS_sched_setscheduler},
      {"splice", SYS_splice},
      {"userfaultfd", SYS_userfaultfd},
      {"vmsplice", SYS_vmsplice},
      {"wait4", SYS_wait4},
      {"write", SYS_write},
  };
  const auto found = kNumbers.find(name);
  return found == kNumbers.end() ? -1 : found->second;
}

}  // namespace sluice::sys
