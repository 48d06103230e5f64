// The system-call seam: every system call of the native layer that can fail in a way that matters
// goes through sys::call, so that tests can make it fail, come up short, or act like another
// kernel. Results are in the kernel's style: negative errno on failure; errno itself is not used.
#pragma once

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace sluice::sys {

struct Fault {
  long number = -1;        // SYS_...
  long request = 0;        // of ioctl, only this one; 0 for all
  bool remote = false;     // hits calls made in a helper or target instead of the dumper's own
  int64_t skip = 0;        // calls let through first
  int64_t times = -1;      // calls hit after that, -1 for all
  int errnum = 0;          // fail with this errno, 0 for none
  uint64_t cap_bytes = 0;  // cut the call's byte count down to this, 0 for none
  bool copy = false;       // vmsplice copies, as a kernel that made it writev does
  bool hang = false;       // does not come back until faults are set anew
};

// Tests only. Replaces all faults; an empty list ends them.
void set_faults(std::vector<Fault> faults);

// How many calls were hit since then.
uint64_t faults_hit();

// Number of a call from its name ("splice"), or -1 for one the seam does not know.
long number_of(const std::string& name);

namespace detail {
extern std::atomic<bool> g_faulty;
long faulty_call(long number, long a, long b, long c, long d, long e, long f);
long raw(long number, long a, long b, long c, long d, long e, long f);
}  // namespace detail

// The start of a vector of buffers, up to so many bytes.
std::vector<iovec> first_bytes(std::span<const iovec> buffers, uint64_t bytes);

struct RemoteFault {
  int errnum = 0;
  uint64_t cap_bytes = 0;
  bool copy = false;
};
// What the seam wants of a remote call; asked by the code that makes it.
RemoteFault remote_fault(long number);

template <typename T>
long to_arg(T value) {
  if constexpr (std::is_pointer_v<T> || std::is_null_pointer_v<T>) {
    return reinterpret_cast<long>(static_cast<const void*>(value));
  } else {
    return static_cast<long>(value);
  }
}

template <typename A = long, typename B = long, typename C = long, typename D = long,
          typename E = long, typename F = long>
long call(long number, A a = 0, B b = 0, C c = 0, D d = 0, E e = 0, F f = 0) {
  if (detail::g_faulty.load(std::memory_order_relaxed)) {
    return detail::faulty_call(number, to_arg(a), to_arg(b), to_arg(c), to_arg(d), to_arg(e),
                               to_arg(f));
  }
  return detail::raw(number, to_arg(a), to_arg(b), to_arg(c), to_arg(d), to_arg(e), to_arg(f));
}

// Repeats a call that a signal interrupted.
template <typename... Args>
long call_restarting(long number, Args... args) {
  long result;
  do {
    result = call(number, args...);
  } while (result == -EINTR);
  return result;
}

}  // namespace sluice::sys
