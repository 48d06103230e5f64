#include "kernel/proc_stat.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <random>
#include <string>

#include "check.h"
#include "child.h"

namespace sluice::test {
namespace {

// Fields 4 to 22, then the rest.
const std::string kFields =
    " S 7 20 30 0 -1 4194560 1 2 3 4 5 6 -7 8 20 -5 3 0 123456789 1000 50 18446744073709551615 "
    "126 127 128 29 30 31 32 33 34 35 36 37 -38 39 40 41 42 43 -44 145 146 147 148 149 150 151 "
    "52\n";

std::string line(const std::string& comm) { return "42 (" + comm + ")" + kFields; }

}  // namespace

TEST(stat_known_text) {
  const ProcStat stat = parse_stat(line("cat"));
  CHECK_EQ(stat.pid, 42);
  CHECK_EQ(stat.comm, "cat");
  CHECK_EQ(stat.state, 'S');
  CHECK_EQ(stat.ppid, 7);
  CHECK_EQ(stat.process_group, 20);
  CHECK_EQ(stat.session_leader, 30);
  CHECK_EQ(stat.nice, -5);
  CHECK_EQ(stat.flags, 4194560u);
  CHECK_EQ(stat.num_threads, 3u);
  CHECK_EQ(stat.start_time_ticks, 123456789u);
  CHECK(!stat.is_kernel_thread());
}

TEST(stat_late_fields) {
  const ProcStat stat = parse_stat(line("cat"));
  const ProcAddresses& addresses = stat.addresses;
  CHECK_EQ(addresses.start_code, 126u);
  CHECK_EQ(addresses.end_code, 127u);
  CHECK_EQ(addresses.start_stack, 128u);
  CHECK_EQ(addresses.start_data, 145u);
  CHECK_EQ(addresses.end_data, 146u);
  CHECK_EQ(addresses.start_break, 147u);
  CHECK_EQ(addresses.arguments_start, 148u);
  CHECK_EQ(addresses.arguments_end, 149u);
  CHECK_EQ(addresses.environment_start, 150u);
  CHECK_EQ(addresses.environment_end, 151u);
  CHECK_EQ(stat.exit_signal, -38);
  CHECK_EQ(stat.exit_code, 52);
}

TEST(stat_of_one_that_is_ending) {
  std::string text = line("cat");
  text.replace(text.find(" 20 30 "), 7, " -1 -1 ");
  const ProcStat stat = parse_stat(text);
  CHECK_EQ(stat.process_group, 0);
  CHECK_EQ(stat.session_leader, 0);
}

TEST(stat_with_ids_that_no_process_can_have) {
  for (const char* ids : {" 20 2147483648 ", " 9223372036854775807 30 "}) {
    std::string text = line("cat");
    text.replace(text.find(" 20 30 "), 7, ids);
    CHECK_THROWS("SYSTEM", parse_stat(text));
  }
}

TEST(stat_hostile_names) {
  for (const std::string comm :
       {"", " ", ")", "(", ") R 1 2 3", ")\n(", "a) S 1 1 1 0 -1", "\n", "))))", "42 (x) S 1"}) {
    const ProcStat stat = parse_stat(line(comm));
    CHECK_EQ(stat.comm, comm);
    CHECK_EQ(stat.ppid, 7);
    CHECK_EQ(stat.start_time_ticks, 123456789u);
  }
}

TEST(stat_kernel_thread_flag) {
  std::string text = line("kthreadd");
  text.replace(text.find("4194560"), 7, "2129984");
  CHECK(parse_stat(text).is_kernel_thread());
}

TEST(stat_malformed) {
  for (const char* bad : {"", "42", "42 ", "42 (", "42 (x", "42 x)", ")42 (", "(x) S 1", "42 (x)",
                          "42 (x) ", "42 (x) S", "42 (x)S 1 2", "-1 (x) S 1", "4294967296 (x) S 1",
                          "42 (x) S 1 2 3 4 5 6 7\n"}) {
    CHECK_THROWS("SYSTEM", parse_stat(bad));
  }
}

TEST(stat_truncated) {
  const std::string good = line("cat");
  const size_t needed = good.find("123456789") + 9;
  for (size_t length = 0; length <= needed; ++length) {
    CHECK_THROWS("SYSTEM", parse_stat(good.substr(0, length)));
  }
  CHECK_EQ(parse_stat(good.substr(0, needed + 1)).start_time_ticks, 123456789u);
}

TEST(stat_damaged) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 20000; ++round) {
    std::string text = line("a name");
    for (size_t n = 1 + random() % 3; n > 0; --n) {
      text[random() % text.size()] = "() 19-\nx"[random() % 8];
    }
    try {
      parse_stat(text);
    } catch (const Error& error) {
      CHECK_EQ(error.code(), "SYSTEM");
    }
  }
}

TEST(stat_of_a_process) {
  const Child child([] { ::prctl(PR_SET_NAME, "a) R 1\n(b"); });
  const auto stat = read_stat(child.pid());
  const auto self = read_stat(::getpid());
  CHECK(stat.has_value() && self.has_value());
  CHECK_EQ(stat->pid, child.pid());
  CHECK_EQ(stat->comm, "a) R 1\n(b");
  CHECK_EQ(stat->ppid, ::getpid());
  CHECK_EQ(stat->process_group, ::getpgrp());
  CHECK_EQ(stat->session_leader, ::getsid(0));
  CHECK_EQ(stat->nice, ::getpriority(PRIO_PROCESS, 0));
  CHECK_EQ(stat->num_threads, 1u);
  CHECK(stat->start_time_ticks >= self->start_time_ticks);
  // Of this program, which the child is a copy of.
  CHECK(stat->addresses.start_break != 0 &&
        stat->addresses.start_break == self->addresses.start_break);
  CHECK(stat->addresses.start_break <= reinterpret_cast<uint64_t>(::sbrk(0)));
  CHECK(!stat->is_kernel_thread());
}

TEST(stat_gone) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!read_stat(pid));
}

}  // namespace sluice::test
