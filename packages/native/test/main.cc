// Runs the tests; see check.h. The last line printed is `N passed, N failed, N skipped`.
#include <dirent.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "check.h"
#include "kernel/syscalls.h"

namespace sluice::test {

std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}

namespace {

enum class Outcome { kPassed, kFailed, kSkipped };

int count_open_fds() {
  DIR* dir = ::opendir("/proc/self/fd");
  int count = 0;
  while (dir != nullptr && ::readdir(dir) != nullptr) {
    ++count;
  }
  if (dir != nullptr) {
    ::closedir(dir);
  }
  return count;
}

// What is wrong with the children, or "".
std::string check_no_children() {
  std::string wrong;
  for (;;) {
    const pid_t pid = ::wait4(-1, nullptr, WNOHANG | __WALL, nullptr);
    if (pid < 0) {
      return errno == ECHILD ? wrong : std::string("wait4: ") + std::strerror(errno);
    }
    if (pid == 0) {
      return "left a child running";
    }
    wrong = "left child " + std::to_string(pid) + " unreaped";
  }
}

void print_failure(const Test& test, const char* file, int line, const std::string& what) {
  std::printf("FAIL %s\n  %s:%d: %s\n", test.name, file, line, what.c_str());
}

Outcome run_body(const Test& test) {
  try {
    test.body();
    return Outcome::kPassed;
  } catch (const Skip& skip) {
    std::printf("skipped %s: %s\n", test.name, skip.reason.c_str());
    return Outcome::kSkipped;
  } catch (const Failure& failure) {
    print_failure(test, failure.file, failure.line, failure.what);
  } catch (const Error& error) {
    print_failure(test, __FILE__, __LINE__, "threw " + error.code() + ": " + error.what());
  } catch (const std::exception& error) {
    print_failure(test, __FILE__, __LINE__, std::string("threw ") + error.what());
  }
  return Outcome::kFailed;
}

Outcome run(const Test& test) {
  const int fds_before = count_open_fds();
  Outcome outcome = run_body(test);
  sys::set_faults({});

  std::string left = check_no_children();
  const int fds_after = count_open_fds();
  if (left.empty() && fds_after != fds_before) {
    left = "open descriptors changed by " + std::to_string(fds_after - fds_before);
  }
  if (!left.empty()) {
    print_failure(test, __FILE__, __LINE__, left);
    outcome = Outcome::kFailed;
  }
  return outcome;
}

int run_all(const char* filter) {
  // Children that are killed on purpose leave no core files.
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  int count[3] = {0, 0, 0};
  for (const Test& test : all_tests()) {
    if (std::strstr(test.name, filter) != nullptr) {
      ++count[static_cast<int>(run(test))];
      std::fflush(stdout);
    }
  }
  std::printf("%d passed, %d failed, %d skipped\n", count[0], count[1], count[2]);
  return count[1] == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sluice::test

int main(int argc, char** argv) { return sluice::test::run_all(argc > 1 ? argv[1] : ""); }
