// A file system that is served by a process (FUSE), and that can stop answering.
//
// It has the files "a" to "h", of kFilePages pages each; every byte is the name of its file. The
// kernel is told to keep nothing in mind but bytes that were read, so that whoever looks at a file,
// asks.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <optional>
#include <string>

#include "child.h"
#include "tools.h"

namespace sluice::test {

class FuseServer {
 public:
  static constexpr uint64_t kFilePages = 4;

  // Throws Skip where none can be mounted.
  FuseServer();
  ~FuseServer();
  FuseServer(const FuseServer&) = delete;
  FuseServer& operator=(const FuseServer&) = delete;

  std::string file(char name) const { return dir_.path() + "/" + name; }
  // From now on whoever asks waits in vain.
  void hang() { state_->hangs = true; }
  // Requests that it has not answered since.
  int unanswered() const { return state_->unanswered; }

 private:
  struct State {
    std::atomic<bool> hangs;
    std::atomic<int> unanswered;
    std::atomic<uint32_t> removed;  // files, as bits
  };
  static void serve(int fuse, State* state);

  TempDir dir_{"/tmp"};
  Shared<State> state_;
  std::optional<Child> server_;
};

}  // namespace sluice::test
