// Objects of this code that JavaScript knows by number. Each worker thread loads the addon anew,
// but they share its memory, so a number from the main thread means the same object everywhere.
#pragma once

#include <napi.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#include "addon/values.h"
#include "base/error.h"

namespace sluice::addon {

template <typename Object>
class Handles {
 public:
  explicit Handles(const char* what) : what_(what) {}

  uint32_t add(std::shared_ptr<Object> object) {
    const std::lock_guard<std::mutex> lock(mutex_);
    objects_.emplace(next_, std::move(object));
    return next_++;
  }
  // Keeps the object alive for the length of a call, even if it is closed meanwhile. Throws
  // CANCELLED.
  std::shared_ptr<Object> at(uint32_t handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = objects_.find(handle);
    if (found == objects_.end()) {
      throw Error("CANCELLED", 0, "", 0, std::string("the ") + what_ + " is closed");
    }
    return found->second;
  }
  void close(uint32_t handle) {
    std::shared_ptr<Object> closing;  // ends when the lock is free again
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = objects_.find(handle);
    if (found != objects_.end()) {
      closing = std::move(found->second);
      objects_.erase(found);
    }
  }

 private:
  const char* what_;
  std::mutex mutex_;
  std::map<uint32_t, std::shared_ptr<Object>> objects_;
  uint32_t next_ = 1;
};

inline uint32_t handle_of(const Napi::CallbackInfo& info) {
  return info[0].As<Napi::Number>().Uint32Value();
}

// A function of the addon that works on the object its first argument names. `body` is a function
// of (info, object), or a method without arguments.
template <auto& handles, auto body>
Napi::Value on(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto object = handles.at(handle_of(info));
    const auto call = [&] {
      if constexpr (std::is_member_function_pointer_v<decltype(body)>) {
        return (object.get()->*body)();
      } else {
        return body(info, object.get());
      }
    };
    try {
      if constexpr (std::is_void_v<decltype(call())>) {
        call();
        return info.Env().Undefined();
      } else {
        return call();
      }
    } catch (const Error& error) {
      throw object->explain(error);
    }
  });
}

template <auto& handles>
Napi::Value close_handle(const Napi::CallbackInfo& info) {
  handles.close(handle_of(info));
  return info.Env().Undefined();
}

}  // namespace sluice::addon
