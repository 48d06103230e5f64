#include "kernel/control_group.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "check.h"
#include "child.h"
#include "tools.h"

namespace sluice::test {
namespace {

constexpr char kMounts[] =
    "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
    "30 22 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu\n"
    "31 22 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "32 22 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

void check_found(const char* groups, const char* mounts, const char* directory, const char* top) {
  const auto group = find_control_group(groups, mounts, "memory");
  CHECK(group.has_value());
  CHECK_EQ(group->directory, directory);
  CHECK_EQ(group->top, top);
}

struct Freezer {
  const char* top;
  const char* file;
  const char* frozen;
  const char* thawed;
};
constexpr Freezer kFreezers[] = {
    {"/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"},
    {"/sys/fs/cgroup/unified", "cgroup.freeze", "1", "0"},
    {"/sys/fs/cgroup", "cgroup.freeze", "1", "0"},
};

// While it lives: what is frozen could not even be killed.
class Frozen {
 public:
  Frozen(const std::string& file, const Freezer& freezer) : file_(file), freezer_(freezer) {
    write_file(file_, freezer_.frozen);
  }
  ~Frozen() { std::ofstream(file_) << freezer_.thawed; }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  std::string file_;
  const Freezer& freezer_;
};

}  // namespace

TEST(control_group_is_that_of_the_controller) {
  check_found("5:cpu:/c\n4:memory:/a/b\n0::/u\n", kMounts, "/sys/fs/cgroup/memory/a/b",
              "/sys/fs/cgroup/memory");
  check_found("4:cpu:/c\n0::/u/v\n", kMounts, "/sys/fs/cgroup/unified/u/v",
              "/sys/fs/cgroup/unified");
  check_found("0::/\n", kMounts, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified");
  CHECK(find_control_group("4:hugetlb,memory:/a\n", kMounts, "memory")->version1);
}

TEST(control_group_of_no_controller_is_that_of_version_2) {
  const auto group = find_control_group("0::/u\n4:memory:/a\n", kMounts, "");
  CHECK_EQ(group->directory, "/sys/fs/cgroup/unified/u");
  CHECK(!group->version1);
  CHECK(!find_control_group("4:memory:/a\n", kMounts, ""));
}

TEST(control_group_that_cannot_be_seen_is_none) {
  const char* const inside = "32 22 0:28 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
  check_found("0::/docker/1/x\n", inside, "/sys/fs/cgroup/x", "/sys/fs/cgroup");
  check_found("0::/docker/1\n", inside, "/sys/fs/cgroup", "/sys/fs/cgroup");
  CHECK(!find_control_group("0::/docker/12\n", inside, "memory"));
  CHECK(!find_control_group("0::/../sibling\n", kMounts, "memory"));
  CHECK(!find_control_group("", kMounts, "memory"));
  CHECK(!find_control_group("0::/\n", "", "memory"));
  CHECK(!find_control_group("nonsense\n0::/u\n", "32 22 - cgroup2\n", "memory"));
}

TEST(control_group_that_is_frozen) {
  int tried = 0;
  for (const Freezer& freezer : kFreezers) {
    const std::string outer =
        std::string(freezer.top) + "/sluice-test-" + std::to_string(::getpid());
    const std::string inner = outer + "/inner";
    if (::mkdir(outer.c_str(), 0755) != 0) {
      continue;
    }
    if (::mkdir(inner.c_str(), 0755) == 0 &&
        ::access((inner + "/" + freezer.file).c_str(), W_OK) == 0) {
      ++tried;
      const Child child([&] { write_file(inner + "/cgroup.procs", "0"); });
      for (const std::string& group : {inner, outer}) {
        CHECK(!frozen_group(child.pid()));
        const Frozen frozen(group + "/" + freezer.file, freezer);
        wait_until("it is frozen", [&] { return frozen_group(child.pid()).has_value(); });
      }
      CHECK(!frozen_group(child.pid()));
    }
    wait_until("the groups are gone", [&] {
      ::rmdir(inner.c_str());
      return ::rmdir(outer.c_str()) == 0;
    });
  }
  if (tried == 0) {
    SKIP("no control groups can be made");
  }
}

}  // namespace sluice::test
