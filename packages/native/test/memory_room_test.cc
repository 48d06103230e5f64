#include "kernel/memory_room.h"

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "check.h"
#include "child.h"

namespace sluice::test {
namespace {

constexpr char kMounts[] =
    "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
    "30 22 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu\n"
    "31 22 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "32 22 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

void check_found(const char* groups, const char* mounts, const char* directory, const char* top) {
  const auto group = find_memory_group(groups, mounts);
  CHECK(group.has_value());
  CHECK_EQ(group->directory, directory);
  CHECK_EQ(group->top, top);
}

void put(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  CHECK(file.good());
}

}  // namespace

TEST(memory_group_is_that_of_the_controller) {
  check_found("5:cpu:/c\n4:memory:/a/b\n0::/u\n", kMounts, "/sys/fs/cgroup/memory/a/b",
              "/sys/fs/cgroup/memory");
  check_found("4:cpu:/c\n0::/u/v\n", kMounts, "/sys/fs/cgroup/unified/u/v",
              "/sys/fs/cgroup/unified");
  check_found("0::/\n", kMounts, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified");
  CHECK(find_memory_group("4:hugetlb,memory:/a\n", kMounts)->version1);
}

TEST(memory_group_that_cannot_be_seen_is_none) {
  const char* const inside = "32 22 0:28 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
  check_found("0::/docker/1/x\n", inside, "/sys/fs/cgroup/x", "/sys/fs/cgroup");
  check_found("0::/docker/1\n", inside, "/sys/fs/cgroup", "/sys/fs/cgroup");
  CHECK(!find_memory_group("0::/docker/12\n", inside));
  CHECK(!find_memory_group("0::/../sibling\n", kMounts));
  CHECK(!find_memory_group("", kMounts));
  CHECK(!find_memory_group("0::/\n", ""));
  CHECK(!find_memory_group("nonsense\n0::/u\n", "32 22 - cgroup2\n"));
}

TEST(memory_room_is_the_least_of_all_groups_above) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  const std::string outer = "/sys/fs/cgroup/memory/sluice-test-" + std::to_string(::getpid());
  const std::string inner = outer + "/inner";
  if (::mkdir(outer.c_str(), 0755) != 0) {
    SKIP("no control groups of version 1 can be made");
  }
  CHECK(::mkdir(inner.c_str(), 0755) == 0);
  {
    const Child child([&] { put(inner + "/cgroup.procs", "0"); });
    const auto room_in = [&](const std::string& group, uint64_t mebibytes) {
      put(group + "/memory.limit_in_bytes", std::to_string(mebibytes * kMiB));
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
