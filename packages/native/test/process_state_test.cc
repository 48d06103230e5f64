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
  ProcessFiles files = read_process_files(child.pid(), 1);
  CHECK_EQ(files.working_directory, "/proc");
  CHECK_EQ(files.root, "/");
  CHECK_EQ(files.descriptors.size(), size_t{1});
  const size_t all = read_process_files(child.pid(), 1000).descriptors.size();
  CHECK(all > 1);
  add_descriptors(child.pid(), &files);
  CHECK_EQ(files.descriptors.size(), all);
}

TEST(process_state_gone) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!read_process_state(pid));
  const ProcessFiles files = read_process_files(pid, 1000);
  CHECK(files.working_directory.empty());
  CHECK(files.root.empty());
  CHECK(files.descriptors.empty());
}

}  // namespace sluice::test
