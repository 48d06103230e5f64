#include "kernel/proc_descriptors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "child.h"
#include "tools.h"

namespace sluice::test {

TEST(descriptors_parse_fdinfo) {
  OpenDescriptor open;
  CHECK(parse_fdinfo("pos:\t1234\nflags:\t02100002\nmnt_id:\t7\nino:\t8\n", &open));
  CHECK_EQ(open.position, 1234u);
  CHECK_EQ(open.flags, 02100002u);
  CHECK(parse_fdinfo("flags:\t0\npos:\t-1\n", &open));
  CHECK_EQ(open.position, ~uint64_t{0});
  for (const char* bad : {"", "\n", "pos:\t1\n", "flags:\t02\n", "pos:\nflags:\t02\n",
                          "pos:\t1\nflags:\t9\n", "pos:\t1\nflags:\t77777777777777\n", "pos"}) {
    CHECK(!parse_fdinfo(bad, &open));
  }
}

TEST(descriptors_of_a_process) {
  const TempDir dir("/tmp");
  const std::string file = dir.path() + "/a file";
  Shared<std::atomic<int>> fd;
  Shared<std::atomic<int>> pipe_end;
  Child child([&] {
    *fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(::write(*fd, "12345", 5), 5);
    int ends[2];
    CHECK_EQ(::pipe(ends), 0);
    *pipe_end = ends[0];
  });
  const auto found = list_descriptors(child.pid(), 1000);
  size_t at = 0;
  while (at < found.size() && found[at].descriptor != static_cast<uint32_t>(*fd)) {
    ++at;
  }
  CHECK(at < found.size());
  CHECK_EQ(found[at].path, file);
  CHECK_EQ(found[at].position, 5u);
  CHECK_EQ(found[at].flags & (O_ACCMODE | O_CLOEXEC), O_RDWR | O_CLOEXEC);
  CHECK(at == 0 || found[at - 1].descriptor < found[at].descriptor);
  CHECK_EQ(list_descriptors(child.pid(), 1).size(), size_t{1});
  const auto files = descriptors_of_files(child.pid(), 1000);
  CHECK(std::find(files.begin(), files.end(), static_cast<uint32_t>(*fd)) != files.end());
  CHECK(std::find(files.begin(), files.end(), static_cast<uint32_t>(*pipe_end)) == files.end());
  CHECK_EQ(descriptors_of_files(child.pid(), 1).size(), size_t{1});
  const pid_t pid = child.pid();
  child.end();
  CHECK(list_descriptors(pid, 1000).empty());
  CHECK(descriptors_of_files(pid, 1000).empty());
}

}  // namespace sluice::test
