#include "kernel/memory_room.h"

#include <sys/stat.h>

#include <string>

#include "check.h"
#include "child.h"
#include "tools.h"

namespace sluice::test {
TEST(memory_room_is_the_least_of_all_groups_above) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  const std::string outer = "/sys/fs/cgroup/memory/sluice-test-" + std::to_string(::getpid());
  const std::string inner = outer + "/inner";
  if (::mkdir(outer.c_str(), 0755) != 0) {
    SKIP("no control groups of version 1 can be made");
  }
  CHECK(::mkdir(inner.c_str(), 0755) == 0);
  {
    const Child child([&] { write_file(inner + "/cgroup.procs", "0"); });
    const auto room_in = [&](const std::string& group, uint64_t mebibytes) {
      write_file(group + "/memory.limit_in_bytes", std::to_string(mebibytes * kMiB));
      return memory_room(child.pid());
    };
    const auto of_outer = room_in(outer, 64);
    CHECK_EQ(of_outer->limit, outer + "/memory.limit_in_bytes");
    CHECK(of_outer->bytes > 32 * kMiB && of_outer->bytes <= 64 * kMiB);
    const auto of_inner = room_in(inner, 32);
    CHECK_EQ(of_inner->limit, inner + "/memory.limit_in_bytes");
    CHECK(of_inner->bytes > 16 * kMiB && of_inner->bytes <= 32 * kMiB);
    CHECK_EQ(room_in(inner, 128)->limit, of_outer->limit);
  }
  CHECK(::rmdir(inner.c_str()) == 0 && ::rmdir(outer.c_str()) == 0);
}

}  // namespace sluice::test
