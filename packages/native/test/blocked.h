// Children that are blocked in a system call and must stay so, whatever is done to them: it may
// return only when what it waits for happens.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include <atomic>
#include <string>

#include "child.h"
#include "hold.h"
#include "tools.h"

namespace sluice::test {

struct BlockedKind;

class Blocked {
 public:
  explicit Blocked(const BlockedKind& kind);
  ~Blocked();

  pid_t pid() const { return child_.pid(); }
  // Waits until it sleeps in the call, which must not have returned.
  void wait_blocked();
  // False once the call has returned.
  bool still_there() const;
  // Makes happen what it waits for. Throws unless the call then returns that, and everything else
  // is as it was: registers, stack, signal mask.
  void finish();
  // The same when it has been made to happen while the call was interrupted.
  void finish_happened();

  struct Memory {
    std::atomic<uint32_t> futex;
    char byte;
    epoll_event event;
    pollfd ready;
    timespec time;
    uint64_t signals;
    struct {
      unsigned short number;
      short operation;
      short flags;
    } semaphore;
    std::atomic<uint64_t> returned;
    std::atomic<int> handled;
    char wrong[512];
    long result;
  };

 private:
  friend struct BlockedKind;
  int run();
  void check(long expected);

  const BlockedKind& kind_;
  Shared<Memory> memory_;
  int fds_[2] = {-1, -1};  // what the child reads, what the parent writes
  int epoll_ = -1;
  int semaphores_ = -1;
  Child child_;
};

struct BlockedKind {
  const char* name;
  HeldCall (*call)(Blocked& blocked);
  void (*happens)(Blocked& blocked);
  long result;
  // If it happens before the kernel makes an interrupted call again.
  long result_if_late = result;

  // What they use of a child.
  static Blocked::Memory* memory(Blocked& blocked) { return &*blocked.memory_; }
  static int reader(Blocked& blocked) { return blocked.fds_[0]; }
  static int writer(Blocked& blocked) { return blocked.fds_[1]; }
  static int epoll(Blocked& blocked) { return blocked.epoll_; }
  static int semaphores(Blocked& blocked) { return blocked.semaphores_; }
};

// Calls that the kernel restarts by itself, and calls that it makes fail with EINTR at every stop.
const std::vector<BlockedKind>& blocked_kinds();

}  // namespace sluice::test
