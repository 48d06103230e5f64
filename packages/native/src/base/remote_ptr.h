// An address in the target. A type of its own, so that it is never dereferenced here.
#pragma once

#include <compare>
#include <cstdint>

namespace sluice {

class RemotePtr {
 public:
  constexpr RemotePtr() = default;
  constexpr explicit RemotePtr(uint64_t address) : address_(address) {}
  constexpr uint64_t value() const { return address_; }
  constexpr RemotePtr operator+(uint64_t bytes) const { return RemotePtr(address_ + bytes); }
  constexpr RemotePtr operator-(uint64_t bytes) const { return RemotePtr(address_ - bytes); }
  constexpr auto operator<=>(const RemotePtr&) const = default;
  constexpr explicit operator bool() const { return address_ != 0; }

 private:
  uint64_t address_ = 0;
};

}  // namespace sluice
