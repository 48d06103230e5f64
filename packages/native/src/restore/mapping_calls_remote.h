// Changes the mappings of a frozen process, through a helper in it. DANGER: from the first call on
// that cannot be undone, a failure leaves them half changed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "kernel/proc_maps.h"
#include "pages/mapped_file.h"
#include "restore/restore_plan.h"
#include "target/arch.h"
#include "target/helper_remote.h"

namespace sluice {

// What came of the calls, in mappings.
struct MappingsDone {
  uint64_t mapped = 0;
  uint64_t unmapped = 0;
  uint64_t protection_changed = 0;
  std::vector<std::string> warnings;
};

// All in the tracer task of the helper, which must outlive it, as `wanted` must.
class MappingCalls {
 public:
  MappingCalls(pid_t pid, const std::vector<WantedVma>& wanted, Helper* helper)
      : pid_(pid), wanted_(wanted), helper_(helper) {}

  // Throws TARGET_EXITED.
  HeapBounds heap_bounds();
  // Opens what the calls of `plan` map, and what join_pieces() would. Throws FILE_CHANGED. `files`
  // tells which must not be asked for.
  void open_files(const RestorePlan& plan, const std::vector<Mapping>& present,
                  const MappedFiles& files, Ask ask);
  // Throws RESTORE_INCOMPLETE, or SYSTEM after all was put back.
  void make_all(const RestorePlan& plan);
  // The kernel does not join neighbours of different origin. Their bytes are those of the image all
  // the same, but mremap(2) tells them apart; so what was one mapping becomes one again. Nothing is
  // done to what the image has no bytes for, and to the code that the helper runs on.
  void join_pieces(const std::vector<Mapping>& present, const std::vector<PageRange>& left_out,
                   const arch::Gadgets& gadgets);
  // Drops pages of its own; false where that is not possible.
  bool drop(PageRange range);
  // Guard pages (MADV_GUARD_INSTALL) let nobody write.
  void remove_guards(PageRange range);
  const MappingsDone& done() const { return done_; }

 private:
  int64_t remote(long number, std::initializer_list<uint64_t> args);
  void open_file(size_t index, const MappedFiles& files, Ask ask);
  int64_t make(const RestoreCall& call);
  void undo(const RestoreCall& call);
  void count(const RestoreCall& call);

  pid_t pid_;
  const std::vector<WantedVma>& wanted_;
  Helper* helper_;
  std::map<size_t, int> helper_files_;  // by index of the VMA, descriptor in the helper
  MappingsDone done_;
};

}  // namespace sluice
