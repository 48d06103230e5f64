#include "kernel/probe_tools.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include "base/error.h"
#include "kernel/syscalls.h"

namespace sluice {

Probe probe_failed(const char* call, long result, const char* advice) {
  std::string detail = std::string(call) + ": " + std::strerror(static_cast<int>(-result));
  if (*advice != '\0') {
    detail += std::string("; ") + advice;
  }
  return {false, std::move(detail)};
}

OwnPages::OwnPages(size_t count, Sharing sharing) : bytes_(count * kPageBytes) {
  const int flags = MAP_ANONYMOUS | (sharing == Sharing::kPrivate ? MAP_PRIVATE : MAP_SHARED);
  const long result = sys::call(SYS_mmap, nullptr, bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (result < 0) {
    throw Error("SYSTEM", 0, "mmap", static_cast<int>(-result), "no memory for a probe");
  }
  data_ = reinterpret_cast<unsigned char*>(result);
}

OwnPages::~OwnPages() { ::munmap(data_, bytes_); }

long open_path(const std::string& path, int flags) {
  return sys::call_restarting(SYS_openat, AT_FDCWD, path.c_str(), flags | O_CLOEXEC);
}

}  // namespace sluice
