#include "kernel/process_state.h"

#include <sys/resource.h>

#include <cstring>

#include "child.h"

namespace sluice::test {

TEST(process_state_limits) {
  const Child child([] {
    rlimit limit{};
    CHECK_EQ(::getrlimit(RLIMIT_RTTIME, &limit), 0);
    limit.rlim_cur = 1000;
    CHECK_EQ(::setrlimit(RLIMIT_RTTIME, &limit), 0);
  });
  const auto state = read_process_state(child.pid());
  CHECK(state.has_value());
  CHECK_EQ(state->status.pid, child.pid());
  CHECK_EQ(state->stat.pid, child.pid());
  CHECK_EQ(state->limits.size(), size_t{16});
  rlimit files{};
  CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  for (const ResourceLimit& limit : state->limits) {
    if (std::strcmp(limit.name, "NOFILE") == 0) {
      CHECK_EQ(limit.soft, files.rlim_cur);
      CHECK_EQ(limit.hard, files.rlim_max);
    }
  }
  CHECK_EQ(state->limits.back().name, std::string("RTTIME"));
  CHECK_EQ(state->limits.back().soft, 1000u);
}

TEST(process_state_files) {
  Child child([] { CHECK_EQ(::chdir("/proc"), 0); });
  const auto all = list_descriptors(child.pid(), 1000);
  CHECK(all.size() > 1);
  const uint32_t last = all.back().descriptor;
  ProcessFiles files = read_process_files(child.pid(), {last, last + 1});
  CHECK_EQ(files.working_directory, "/proc");
  CHECK_EQ(files.root, "/");
  CHECK_EQ(files.descriptors.size(), size_t{1});
  CHECK_EQ(files.descriptors.front().descriptor, last);
  files.descriptors.front().path = "as it was";
  add_descriptors(child.pid(), &files);
  CHECK_EQ(files.descriptors.size(), all.size());
  CHECK_EQ(files.descriptors.front().descriptor, all.front().descriptor);
  CHECK_EQ(files.descriptors.back().path, "as it was");
}

TEST(process_state_gone) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!read_process_state(pid));
  const ProcessFiles files = read_process_files(pid, {0, 1});
  CHECK(files.working_directory.empty());
  CHECK(files.root.empty());
  CHECK(files.descriptors.empty());
}

}  // namespace sluice::test
