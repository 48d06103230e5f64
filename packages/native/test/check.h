// A small test harness for the native layer without Node.
//
//   TEST(crc32c_known_vectors) { CHECK_EQ(crc32c(0, "123456789", 9), 0xe3069283u); }
//
// The first failed check ends its test. A test that leaves a child process or an open descriptor
// behind fails too. main.cc runs them all, or those whose name contains its first argument.
#pragma once

#include <concepts>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice::test {

// Thrown by failed checks and by SKIP, caught by the harness alone.
struct Failure {
  const char* file;
  int line;
  std::string what;
};
struct Skip {
  std::string reason;
};

struct Test {
  const char* name;
  void (*body)();
};
std::vector<Test>& all_tests();

struct Registration {
  Registration(const char* name, void (*body)()) { all_tests().push_back({name, body}); }
};

template <typename T>
std::string describe(const T& value) {
  if constexpr (requires(std::ostream& out) { out << value; }) {
    std::ostringstream out;
    out << std::boolalpha << value;
    return out.str();
  } else if constexpr (requires { value.begin() != value.end(); }) {
    std::string text = "[";
    for (const auto& item : value) {
      text += (text.size() > 1 ? ", " : "") + describe(item);
    }
    return text + "]";
  } else {
    return "(an object)";
  }
}

template <typename T>
concept Number = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>;

template <typename A, typename B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  bool equal;
  if constexpr (Number<A> && Number<B>) {
    equal = std::cmp_equal(a, b);
  } else {
    equal = a == b;
  }
  if (!equal) {
    throw Failure{file, line, std::string(text) + ": " + describe(a) + " is not " + describe(b)};
  }
}

template <typename Body>
void check_throws(const char* code, Body body, const char* text, const char* file, int line) {
  try {
    body();
  } catch (const Error& error) {
    if (!error.is(code)) {
      throw Failure{file, line,
                    std::string(text) + ": threw " + error.code() + " (" + error.what() +
                        ") instead of " + code};
    }
    return;
  }
  throw Failure{file, line, std::string(text) + ": did not throw " + code};
}

}  // namespace sluice::test

#define TEST(name)                                                                    \
  static void test_##name();                                                          \
  static const ::sluice::test::Registration registration_##name(#name, &test_##name); \
  static void test_##name()

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      throw ::sluice::test::Failure{__FILE__, __LINE__, #condition}; \
    }                                                                \
  } while (false)

#define CHECK_EQ(actual, expected) \
  ::sluice::test::check_equal(actual, expected, #actual, __FILE__, __LINE__)

// CHECK_THROWS("SYSTEM", parse_maps(text))
#define CHECK_THROWS(code, ...) \
  ::sluice::test::check_throws(code, [&] { (void)(__VA_ARGS__); }, #__VA_ARGS__, __FILE__, __LINE__)

#define SKIP(reason) \
  throw ::sluice::test::Skip { reason }
