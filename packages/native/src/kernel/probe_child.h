// A forked child for a probe. It has exit signal 0: nobody in this process who waits for children
// of his own (libuv does at every SIGCHLD) hears of it or can reap it by accident. It dies with the
// thread that made it.
#pragma once

#include <sys/types.h>

namespace sluice {

class ProbeChild {
 public:
  // Runs `body(argument)` in the child and ends it. The other threads of this process do not exist
  // there and may have held any lock: `body` may make raw system calls and nothing else. All
  // signals are blocked in it. Throws SYSTEM when there can be no child.
  ProbeChild(void (*body)(void*), void* argument);
  // Kills it and reaps it.
  ~ProbeChild();
  ProbeChild(const ProbeChild&) = delete;
  ProbeChild& operator=(const ProbeChild&) = delete;

  pid_t pid() const { return pid_; }
  // Waits until it has ended; true if `body` returned.
  bool finish();

 private:
  pid_t pid_ = 0;
  bool reaped_ = false;
};

// A body that does nothing until the child is killed.
void sleep_in_child(void*);

}  // namespace sluice
