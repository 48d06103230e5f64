// What the probes share.
#pragma once

#include <string>
#include <utility>

#include "base/page_range.h"
#include "kernel/probes.h"

namespace sluice {

// A probe that `call` ended with `result` (negative errno); `advice` says what to do about it.
Probe probe_failed(const char* call, long result, const char* advice);

// Some pages of our own, private and anonymous (or shared with forked children), filled with zeros
// and not touched yet.
class OwnPages {
 public:
  enum class Sharing { kPrivate, kWithChildren };

  explicit OwnPages(size_t count, Sharing sharing = Sharing::kPrivate);
  ~OwnPages();
  OwnPages(const OwnPages&) = delete;
  OwnPages& operator=(const OwnPages&) = delete;

  volatile unsigned char* page(size_t index) const { return data_ + index * kPageBytes; }
  uint64_t address(size_t index) const { return reinterpret_cast<uint64_t>(page(index)); }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  unsigned char* data_ = nullptr;
  size_t bytes_ = 0;
};

// Opens for reading (or with more `flags`); negative errno on failure.
long open_path(const std::string& path, int flags);

}  // namespace sluice
