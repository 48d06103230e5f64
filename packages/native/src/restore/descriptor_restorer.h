// Open descriptors of a process against those that an image has: compared, and those of files put
// back to where they stood.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/scoped_fd.h"
#include "kernel/proc_descriptors.h"

namespace sluice {

class DescriptorRestorer {
 public:
  DescriptorRestorer(pid_t pid, std::vector<OpenDescriptor> wanted)
      : pid_(pid), wanted_(std::move(wanted)) {}

  // All of them are open as they were; others may be too. Throws RESTORE_MISMATCH.
  void check();
  // After check, under freeze: takes a duplicate of each that restore() will change, by the pidfd
  // of the process. Throws PERMISSION.
  void take(const ScopedFd& pidfd);
  // Puts back positions and status flags. Throws SYSTEM.
  void restore();
  // What is left as it is, in words.
  std::vector<std::string> warnings() const;

 private:
  struct Changed {
    const OpenDescriptor* then;
    const OpenDescriptor* now;
    ScopedFd duplicate;
    bool seeks;
  };

  pid_t pid_;
  std::vector<OpenDescriptor> wanted_;
  std::vector<OpenDescriptor> present_;
  std::vector<Changed> changed_;
};

}  // namespace sluice
