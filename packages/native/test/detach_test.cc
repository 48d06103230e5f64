// What ended helpers left is removed at the end, or told of.
#include "target/detach_remote.h"

#include <sys/ptrace.h>

#include "check.h"
#include "child.h"
#include "kernel/proc_stat.h"
#include "rig.h"
#include "tools.h"

namespace sluice::test {
namespace {

TargetHandle handle_of(pid_t pid) { return {pid, read_stat(pid)->start_time_ticks}; }

HelperRemains ended_helper(pid_t pid) {
  Rig rig(pid);
  return rig.task.run([&] { return rig.start_helper()->end(); });
}

}  // namespace

TEST(detach_removes_what_helpers_left) {
  const Child child([] {});
  const std::string before = snapshot(child.pid());
  const auto remains = {ended_helper(child.pid()), ended_helper(child.pid())};
  CHECK_EQ(children_of(child.pid()).size(), 2u);
  CHECK_EQ(remove_last_remains(handle_of(child.pid()), remains), std::vector<std::string>{});
  check_unchanged(child.pid(), before);
}

TEST(detach_tells_what_it_could_not_remove) {
  Child child([] {});
  const pid_t pid = child.pid();
  const TargetHandle target = handle_of(pid);
  const HelperRemains remains = ended_helper(pid);
  const Child other([&] { CHECK_EQ(::ptrace(PTRACE_SEIZE, pid, 0, 0), 0); });
  const auto warnings = remove_last_remains(target, {remains});
  CHECK_EQ(warnings.size(), 2u);
  CHECK_EQ(warnings[1], "left in process " + std::to_string(pid) + ": zombie child " +
                            std::to_string(remains.zombie) + "; the next dump of it removes that");
  ::kill(pid, SIGKILL);
  wait_until("it has ended", [&] { return target.has_ended(); });
  CHECK_EQ(remove_last_remains(target, {remains}), std::vector<std::string>{});
}

}  // namespace sluice::test
