#include "kernel/proc_status.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <random>
#include <string>

#include "check.h"
#include "child.h"
#include "kernel/proc_file.h"

namespace sluice::test {
namespace {

const std::string kGood =
    "Name:\ta b\\nc\\\\d\n"
    "Umask:\t0022\n"
    "State:\tS (sleeping)\n"
    "Tgid:\t10\n"
    "Ngid:\t0\n"
    "Pid:\t12\n"
    "PPid:\t1\n"
    "TracerPid:\t99\n"
    "Uid:\t1000\t1001\t1002\t4294967295\n"
    "Gid:\t100\t101\t102\t103\n"
    "Groups:\t4 24 4294967294 \n"
    "NSpid:\t12\t3\t1\n"
    "Kthread:\t0\n"
    "VmRSS:\t    1752 kB\n"
    "Threads:\t7\n"
    "SigPnd:\t0000000000000100\n"
    "ShdPnd:\t0000000000000800\n"
    "SigBlk:\t8000000000000001\n"
    "SigIgn:\t0000000000001000\n"
    "SigCgt:\t0000000180000002\n"
    "CapInh:\t0000000000000001\n"
    "CapPrm:\t0000000000000002\n"
    "CapEff:\t000001ffffffffff\n"
    "CapBnd:\t0000000000000004\n"
    "CapAmb:\t0000000000000008\n"
    "NoNewPrivs:\t1\n"
    "Seccomp:\t2\n"
    "Seccomp_filters:\t1\n";

std::string without(const std::string& key) {
  std::string text = kGood;
  const size_t at = text.find(key + ":");
  text.erase(at, text.find('\n', at) - at + 1);
  return text;
}

std::string with(const std::string& key, const std::string& value) {
  return without(key) + key + ":\t" + value + "\n";
}

}  // namespace

TEST(status_known_text) {
  const ProcStatus status = parse_status(kGood);
  CHECK_EQ(status.name, "a b\nc\\d");
  CHECK_EQ(status.state, 'S');
  CHECK_EQ(status.tgid, 10);
  CHECK_EQ(status.pid, 12);
  CHECK_EQ(status.ppid, 1);
  CHECK_EQ(status.tracer_pid, 99);
  CHECK((status.uids == ProcIds{1000, 1001, 1002, 4294967295u}));
  CHECK((status.gids == ProcIds{100, 101, 102, 103}));
  CHECK((status.groups == std::vector<gid_t>{4, 24, 4294967294u}));
  CHECK_EQ(status.umask, 022u);
  CHECK((status.ns_pids == std::vector<pid_t>{12, 3, 1}));
  CHECK(status.kernel_thread == false);
  CHECK_EQ(status.rss_kb, 1752u);
  CHECK_EQ(status.pending, 0x100u);
  CHECK_EQ(status.process_pending, 0x800u);
  CHECK(status.is_killed());
  CHECK(!status.is_process_killed());
  CHECK_EQ(status.threads, 7u);
  CHECK_EQ(status.seccomp_mode, 2);
  CHECK_EQ(status.blocked, 0x8000000000000001u);
  CHECK_EQ(status.ignored, 0x1000u);
  CHECK_EQ(status.caught, 0x180000002u);
  CHECK(status.no_new_privs);
  CHECK_EQ(status.cap_inh, 1u);
  CHECK_EQ(status.cap_prm, 2u);
  CHECK_EQ(status.cap_eff, 0x1ffffffffffu);
  CHECK_EQ(status.cap_bnd, 4u);
  CHECK_EQ(status.cap_amb, 8u);
  CHECK(status.has_capability(40));
  CHECK(!status.has_capability(41));
  CHECK(!status.is_zombie());
}

TEST(status_optional_lines) {
  const ProcStatus status = parse_status(
      "Name:\tx\nState:\tZ (zombie)\nTgid:\t5\nPid:\t5\nPPid:\t0\nTracerPid:\t0\n"
      "Uid:\t0\t0\t0\t0\nThreads:\t1\n");
  CHECK(!status.kernel_thread.has_value());
  CHECK((status.ns_pids == std::vector<pid_t>{5}));
  CHECK_EQ(status.rss_kb, 0u);
  CHECK(!status.no_new_privs);
  CHECK(status.groups.empty());
  CHECK(status.is_zombie());
  CHECK(parse_status(with("Groups", " ")).groups.empty());
}

TEST(status_name_keeps_blanks) {
  CHECK_EQ(parse_status(with("Name", " x ")).name, " x ");
  CHECK_EQ(parse_status(with("Name", "")).name, "");
  CHECK_EQ(parse_status(with("Name", "a: b")).name, "a: b");
  CHECK_EQ(parse_status(with("Name", "end\\")).name, "end\\");
}

TEST(status_malformed) {
  for (const char* key : {"Name", "State", "Tgid", "Pid", "PPid", "TracerPid", "Uid", "Threads"}) {
    CHECK_THROWS("SYSTEM", parse_status(without(key)));
  }
  for (const char* key :
       {"State", "Tgid", "Pid", "PPid", "TracerPid", "Uid", "Threads", "NSpid", "VmRSS", "Seccomp",
        "CapEff", "Kthread", "Gid", "Umask", "SigCgt", "NoNewPrivs"}) {
    CHECK_THROWS("SYSTEM", parse_status(with(key, "")));
  }
  for (const char* key : {"Tgid", "Pid", "PPid", "TracerPid", "Uid", "Threads", "NSpid", "VmRSS",
                          "Seccomp", "Gid", "Umask", "NoNewPrivs"}) {
    for (const char* bad : {"x", "-1", "99999999999999999999", "1x", "1 x"}) {
      CHECK_THROWS("SYSTEM", parse_status(with(key, bad)));
    }
  }
  CHECK_THROWS("SYSTEM", parse_status(with("Pid", "2147483648")));
  CHECK_THROWS("SYSTEM", parse_status(with("Uid", "0 0 0")));
  CHECK_THROWS("SYSTEM", parse_status(with("Uid", "0 0 0 0 0")));
  CHECK_THROWS("SYSTEM", parse_status(with("VmRSS", "12 MB")));
  CHECK_THROWS("SYSTEM", parse_status(with("Groups", "4 x")));
  CHECK_THROWS("SYSTEM", parse_status(with("Umask", "0800")));
  CHECK_THROWS("SYSTEM", parse_status(with("Umask", "01000")));
  CHECK_THROWS("SYSTEM", parse_status(""));
  CHECK_THROWS("SYSTEM", parse_status(kGood + "no colon\n"));
}

TEST(status_damaged) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 20000; ++round) {
    std::string text = kGood;
    text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % 4 == 0 ? random() % text.size() : text.size());
    try {
      parse_status(text);
    } catch (const Error& error) {
      CHECK_EQ(error.code(), "SYSTEM");
    }
  }
}

TEST(status_of_a_process) {
  const Child child([] { ::prctl(PR_SET_NAME, "a\nb \\) c"); });
  const auto status = read_status(child.pid());
  CHECK(status.has_value());
  CHECK_EQ(status->name, "a\nb \\) c");
  CHECK_EQ(status->pid, child.pid());
  CHECK_EQ(status->tgid, child.pid());
  CHECK_EQ(status->ppid, ::getpid());
  CHECK_EQ(status->tracer_pid, 0);
  CHECK_EQ(status->uids.effective, ::geteuid());
  CHECK_EQ(status->threads, 1u);
  CHECK_EQ(status->ns_pids.front(), child.pid());
  CHECK(status->rss_kb > 0);
  CHECK(!status->kernel_thread.value_or(false));
  const auto thread = read_thread_status(child.pid(), child.pid());
  CHECK(thread.has_value());
  CHECK_EQ(thread->name, status->name);
}

TEST(status_gone) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!read_status(pid));
  CHECK(!read_thread_status(pid, pid));
  CHECK(!read_thread_status(::getpid(), pid));
}

TEST(status_of_a_zombie) {
  const Child child([] {});
  ::kill(child.pid(), SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
  const auto status = read_status(child.pid());
  CHECK(status.has_value());
  CHECK(status->is_zombie());
  CHECK_EQ(status->rss_kb, 0u);
}

TEST(status_names_the_tracer) {
  const Child child([] {});
  CHECK_EQ(::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr), 0);
  const auto status = read_status(child.pid());
  CHECK(status.has_value());
  CHECK_EQ(status->tracer_pid, ::getpid());
}

}  // namespace sluice::test
