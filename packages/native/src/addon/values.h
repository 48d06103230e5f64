// Values in and out of JavaScript, and nothing more.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/page_range.h"

namespace sluice::addon {

inline Napi::Error error_to_js(Napi::Env env, const Error& error) {
  Napi::Error thrown = Napi::Error::New(env, error.what());
  thrown.Set("code", Napi::String::New(env, "ERR_SLUICE_" + error.code()));
  if (error.err() != 0) {
    thrown.Set("errno", Napi::Number::New(env, error.err()));
  }
  if (!error.call().empty()) {
    thrown.Set("syscall", Napi::String::New(env, error.call()));
  }
  if (error.pid() != 0) {
    thrown.Set("pid", Napi::Number::New(env, error.pid()));
  }
  return thrown;
}

// Runs `body`; an Error becomes a JavaScript Error with the properties code, errno, syscall, pid.
template <typename Body>
auto guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw error_to_js(env, error);
  } catch (const std::bad_alloc&) {
    throw error_to_js(env, Error("SYSTEM", 0, "mmap", ENOMEM, "the dumper has no memory left"));
  } catch (const std::out_of_range&) {
    throw Napi::Error::New(env, "no such lane or drain");
  }
}

inline Napi::BigInt big(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }
inline Napi::BigInt big_signed(Napi::Env env, int64_t value) {
  return Napi::BigInt::New(env, value);
}
template <typename Value>
Napi::Number number(Napi::Env env, Value value) {
  return Napi::Number::New(env, static_cast<double>(value));
}
// Bytes that are not UTF-8 (names of threads and files may be anything) become U+FFFD.
inline Napi::String text(Napi::Env env, const std::string& value) {
  return Napi::String::New(env, value);
}

template <typename Items, typename Convert>
Napi::Array list(Napi::Env env, const Items& items, Convert convert) {
  Napi::Array array = Napi::Array::New(env, items.size());
  uint32_t at = 0;
  for (const auto& item : items) {
    array.Set(at++, convert(item));
  }
  return array;
}

inline Napi::Array texts(Napi::Env env, const std::vector<std::string>& items) {
  return list(env, items, [env](const std::string& item) { return text(env, item); });
}

inline Napi::Uint8Array bytes(Napi::Env env, const void* data, size_t size) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, size);
  if (size > 0) {
    std::memcpy(array.Data(), data, size);
  }
  return array;
}

// As a BigUint64Array: start and end by turns.
inline Napi::BigUint64Array ranges_to_js(Napi::Env env, const std::vector<PageRange>& ranges) {
  Napi::BigUint64Array array = Napi::BigUint64Array::New(env, ranges.size() * 2);
  for (size_t i = 0; i < ranges.size(); ++i) {
    array[2 * i] = ranges[i].start;
    array[2 * i + 1] = ranges[i].end;
  }
  return array;
}
inline std::vector<PageRange> ranges_of(const Napi::Value& given) {
  const auto array = given.As<Napi::BigUint64Array>();
  std::vector<PageRange> ranges;
  ranges.reserve(array.ElementLength() / 2);
  for (size_t i = 0; i + 1 < array.ElementLength(); i += 2) {
    ranges.push_back({array[i], array[i + 1]});
  }
  return ranges;
}

inline int64_t integer_of(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int64Value();
}
inline uint64_t big_of(const Napi::Object& object, const char* name) {
  bool lossless = false;
  return object.Get(name).As<Napi::BigInt>().Uint64Value(&lossless);
}
inline int64_t big_signed_of(const Napi::Object& object, const char* name) {
  bool lossless = false;
  return object.Get(name).As<Napi::BigInt>().Int64Value(&lossless);
}
inline std::string text_of(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::String>().Utf8Value();
}

inline void add_function(Napi::Env env, Napi::Object exports, const char* name,
                         Napi::Value (*function)(const Napi::CallbackInfo&)) {
  exports.Set(name, Napi::Function::New(env, function, name));
}

}  // namespace sluice::addon
