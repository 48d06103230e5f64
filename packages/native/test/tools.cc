#include "tools.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <system_error>

#include "kernel/probes.h"
#include "kernel/proc_file.h"
#include "kernel/proc_status.h"
#include "kernel/proc_task.h"

namespace sluice::test {

TempDir::TempDir(std::string base) : path_(std::move(base) + "/sluice-test-XXXXXX") {
  CHECK(::mkdtemp(path_.data()) != nullptr);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

bool TempDir::empty() const { return std::filesystem::is_empty(path_); }

void wait_until(const char* what, bool (*condition)(void*), void* argument) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition(argument)) {
    if (std::chrono::steady_clock::now() > limit) {
      throw Failure{__FILE__, __LINE__, std::string("waited in vain until ") + what};
    }
    const timespec pause{0, 200'000};
    ::nanosleep(&pause, nullptr);
  }
}

int wait_in_vfork() {
  const pid_t pid = ::vfork();
  if (pid == 0) {
    for (;;) {
      ::syscall(SYS_pause);
    }
  }
  return ::waitpid(pid, nullptr, 0) == pid ? 0 : 1;
}

std::vector<pid_t> threads_of(pid_t pid) {
  const auto threads = list_threads(pid);
  CHECK(threads.has_value());
  return *threads;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> all;
  for (const pid_t tid : threads_of(pid)) {
    const auto children = list_children(pid, tid).value_or(std::vector<pid_t>{});
    all.insert(all.end(), children.begin(), children.end());
  }
  return all;
}

char state_of(pid_t pid, pid_t tid) {
  const auto status = read_thread_status(pid, tid);
  return status ? status->state : '\0';
}

long blocked_in(pid_t pid, pid_t tid) {
  const auto text = read_proc_file(pid, "task/" + std::to_string(tid) + "/syscall");
  return text && text->rfind("running", 0) != 0 ? std::atol(text->c_str()) : -1;
}

std::string proc_text(pid_t pid, const std::string& name) {
  const auto text = read_proc_file(pid, name);
  if (!text) {
    throw Failure{__FILE__, __LINE__, "no " + name + " of " + std::to_string(pid)};
  }
  return *text;
}

std::string status_line(pid_t pid, const std::string& name) {
  const std::string text = "\n" + proc_text(pid, "status");
  const size_t at = text.find("\n" + name + ":");
  CHECK(at != std::string::npos);
  const size_t start = text.find_first_not_of(" \t", at + name.size() + 2);
  return text.substr(start, text.find('\n', start) - start);
}

std::string write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  CHECK(file.good());
  return path;
}

std::string snapshot(pid_t pid) {
  std::string text = proc_text(pid, "maps");
  std::vector<std::string> fds;
  for (const auto& entry : std::filesystem::directory_iterator(proc_path(pid, "fd"))) {
    std::error_code ignored;
    fds.push_back(entry.path().filename().string() + " -> " +
                  std::filesystem::read_symlink(entry.path(), ignored).string() + "\n");
  }
  std::sort(fds.begin(), fds.end());
  for (const std::string& fd : fds) {
    text += fd;
  }
  for (const pid_t tid : list_threads(pid).value_or(std::vector<pid_t>{})) {
    const std::string task = "task/" + std::to_string(tid) + "/";
    text += "thread " + std::to_string(tid) + " children " + proc_text(pid, task + "children");
    const std::string status = proc_text(pid, task + "status");
    for (const char* name : {"\nSigBlk:", "\nSigPnd:", "\nSigIgn:", "\nSigCgt:", "\nTracerPid:"}) {
      const size_t at = status.find(name);
      text += status.substr(at, status.find('\n', at + 1) - at);
    }
    text += "\n";
  }
  return text;
}

void check_unchanged(pid_t pid, const std::string& since) {
  const auto lines = [](const std::string& text) {
    std::istringstream in(text);
    std::multiset<std::string> all;
    for (std::string line; std::getline(in, line);) {
      all.insert(line);
    }
    return all;
  };
  const std::string now = snapshot(pid);
  if (now == since) {
    return;
  }
  const auto before = lines(since);
  const auto after = lines(now);
  std::vector<std::string> differing;
  std::set_symmetric_difference(before.begin(), before.end(), after.begin(), after.end(),
                                std::back_inserter(differing));
  std::string text = "changed:";
  for (const std::string& line : differing) {
    text += (before.contains(line) ? "\n    - " : "\n    + ") + line;
  }
  throw Failure{__FILE__, __LINE__, text};
}

std::vector<TrackerMode> trackers_here() {
  std::vector<TrackerMode> modes{TrackerMode::kNone};
  if (probe_uffd_wp_async().ok) {
    modes.push_back(TrackerMode::kUffdWp);
  }
  if (probe_soft_dirty().ok) {
    modes.push_back(TrackerMode::kSoftDirty);
  }
  return modes;
}

AdoptsOrphans::AdoptsOrphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }

AdoptsOrphans::~AdoptsOrphans() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  while (::wait4(-1, nullptr, __WALL, nullptr) > 0 || errno == EINTR) {
  }
}

void reap_orphan(pid_t pid) { CHECK_EQ(::waitpid(pid, nullptr, __WALL), pid); }

}  // namespace sluice::test
