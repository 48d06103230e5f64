// Which file systems may have to ask somebody.
#include "pages/file_systems.h"

#include <unistd.h>

#include "check.h"

namespace sluice::test {
namespace {

constexpr char kMounts[] =
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    "23 22 0:5 / /dev rw - devtmpfs devtmpfs rw,size=4k\n"
    "24 22 0:40 / /home/a\\040b rw - fuse.sshfs host:/ rw,user_id=0\n"
    "25 22 0:41 /export /net rw,vers=4.2 shared:2 master:1 - nfs4 host:/export rw\n"
    "26 22 254:16 / /usb rw - fuseblk /dev/vdb rw\n"
    "27 22 0:42 / /var rw - overlay overlay rw,lowerdir=/a\n"
    "28 22 0:43 / /new rw - newfs newfs rw\n"
    "29 22 garbage\n"
    "garbage - ext4\n"
    "30 22 0:44 / /last rw - btrfs";

bool may_ask(const FileSystems& systems, unsigned major, unsigned minor,
             const std::string& path = "/file") {
  Mapping mapping;
  mapping.dev_major = major;
  mapping.dev_minor = minor;
  mapping.path = path;
  return systems.may_ask(mapping);
}

}  // namespace

TEST(file_systems_that_may_ask) {
  FileSystems systems;
  systems.learn_from(kMounts);
  for (const auto& [major, minor] :
       std::initializer_list<std::pair<unsigned, unsigned>>{{254, 0}, {0, 5}, {0, 42}, {0, 44}}) {
    CHECK(!may_ask(systems, major, minor));
  }
  for (const auto& [major, minor] :
       std::initializer_list<std::pair<unsigned, unsigned>>{{0, 40}, {0, 41}, {254, 16}, {0, 43}}) {
    CHECK(may_ask(systems, major, minor));
  }
}

TEST(file_systems_that_are_mounted_nowhere) {
  FileSystems systems;
  systems.learn_from(kMounts);
  CHECK(!may_ask(systems, 8, 1));
  CHECK(may_ask(systems, 0, 99));
  for (const char* name : {"/memfd:x (deleted)", "/SYSV00000000 (deleted)", "/dev/zero (deleted)",
                           "/anon_hugepage (deleted)", "/[aio] (deleted)", "anon_inode:[io_uring]",
                           "/secretmem (deleted)"}) {
    CHECK(!may_ask(systems, 0, 99, name));
  }
  // A name is no more than a name where it is known what is mounted.
  CHECK(may_ask(systems, 0, 40, "/memfd:x"));
}

TEST(file_systems_of_this_process) {
  FileSystems systems;
  systems.learn(::getpid());
  for (const Mapping& mapping : read_maps(::getpid())) {
    CHECK(!has_file(mapping) || !systems.may_ask(mapping));
  }
}

}  // namespace sluice::test
