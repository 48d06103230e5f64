// Which file systems may have to ask somebody else about a file: a server on the network, or a
// process (FUSE). They may wait for the answer for ever, so under a freeze nothing is asked of
// them.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "kernel/proc_maps.h"

namespace sluice {

class FileSystems {
 public:
  // Looks what is mounted, for the process and here; what it knew before it still knows.
  void learn(pid_t pid);
  // The same from the text of /proc/PID/mountinfo; lines that it does not understand say nothing.
  void learn_from(std::string_view mountinfo);

  // Whether to look at the file behind a mapping may be to ask. Looks at nothing itself.
  bool may_ask(const Mapping& mapping) const;

 private:
  // By device number, as maps has it.
  std::map<std::pair<unsigned, unsigned>, bool> asks_;
};

// Shared memory by its name, for who may not open what is mapped.
bool memory_backed_by_name(const std::string& path);

}  // namespace sluice
