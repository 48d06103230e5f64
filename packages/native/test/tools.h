// What tests of several layers use: directories that vanish, memory shared with children, waiting
// for what must come, and looks at other processes.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "track/tracker.h"

namespace sluice::test {

// Removed with all that is in it.
class TempDir {
 public:
  explicit TempDir(std::string base = ".");
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  bool empty() const;

 private:
  std::string path_;
};

// All bytes of a file.
std::string read_file(const std::string& path);

// An object, zeroed, that children forked from here share. T is plain data and atomics.
template <typename T>
class Shared {
 public:
  Shared() {
    void* memory =
        ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    object_ = static_cast<T*>(memory);
  }
  ~Shared() { ::munmap(object_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }

 private:
  T* object_;
};

// Looks again and again until `condition` holds. That it comes at all is what is tested, not when:
// the limit of a minute only turns a hang into a failure.
void wait_until(const char* what, bool (*condition)(void*), void* argument);

template <typename Condition>
void wait_until(const char* what, Condition condition) {
  wait_until(
      what, [](void* self) -> bool { return (*static_cast<Condition*>(self))(); }, &condition);
}

// For bodies of children: returns when all `count` threads are about to call work(index).
template <typename Work>
void start_threads(int count, Work work) {
  static std::atomic<int> begun;
  begun = 0;
  for (int i = 0; i < count; ++i) {
    std::thread([i, work] {
      ++begun;
      work(i);
    }).detach();
  }
  while (begun != count) {
    std::this_thread::yield();
  }
}

// For bodies of children: waits in vfork(2), where nothing can stop it, until its own child is
// killed. What the body is to exit with.
int wait_in_vfork();

using Random = std::mt19937_64;
// 0 to `end` - 1.
inline uint64_t below(Random& random, uint64_t end) { return random() % end; }

// Of a process that is there.
std::vector<pid_t> threads_of(pid_t pid);
std::vector<pid_t> children_of(pid_t pid);
// State letter of a thread, 0 if it is gone.
char state_of(pid_t pid, pid_t tid);
// The system call that a task is blocked in, -1 for none.
long blocked_in(pid_t pid, pid_t tid);
// Whole file /proc/PID/NAME; fails the test if there is none.
std::string proc_text(pid_t pid, const std::string& name);
// What follows "NAME:" and blanks in /proc/PID/status.
std::string status_line(pid_t pid, const std::string& name);

// Whole file, also one of the kernel's; fails the test if it cannot be written. Returns the path.
std::string write_file(const std::string& path, const std::string& text);

// What work in a target must leave as it was: mappings, descriptors, threads, children, signal
// masks.
std::string snapshot(pid_t pid);
// Fails with the lines that came or went since.
void check_unchanged(pid_t pid, const std::string& since);

// The trackers that this kernel has; kNone first.
std::vector<TrackerMode> trackers_here();

// Orphans of the processes that a test kills become children of this one instead of init's, so that
// it can wait for their end. They are reaped at the end of the scope.
class AdoptsOrphans {
 public:
  AdoptsOrphans();
  ~AdoptsOrphans();
  AdoptsOrphans(const AdoptsOrphans&) = delete;
  AdoptsOrphans& operator=(const AdoptsOrphans&) = delete;
};
// Waits for the end of one of them; no other child is reaped that may end at the same time.
void reap_orphan(pid_t pid);

}  // namespace sluice::test
