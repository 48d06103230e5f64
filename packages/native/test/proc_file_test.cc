#include "kernel/proc_file.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "child.h"
#include "kernel/syscalls.h"

namespace sluice::test {

TEST(proc_file_reads_whole) {
  const auto text = read_proc_file(::getpid(), "smaps");
  CHECK(text.has_value());
  CHECK(text->size() > 8192);  // more than the first read asks for
  CHECK(text->ends_with('\n'));
  CHECK_EQ(*read_proc_file(::getpid(), "comm"), *read_kernel_file("/proc/self/comm"));
}

TEST(proc_file_same_text_with_short_reads) {
  const Child child([] {});
  const auto whole = read_proc_file(child.pid(), "maps");
  sys::set_faults({{.number = SYS_read, .cap_bytes = 7}});
  const auto pieces = read_proc_file(child.pid(), "maps");
  sys::set_faults({});
  CHECK(whole.has_value());
  CHECK(whole == pieces);
}

TEST(proc_file_gone_is_a_value) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.end();
  CHECK(!read_proc_file(pid, "status"));
  CHECK(!read_proc_link(pid, "exe"));
  // It may also go away between opening and reading.
  sys::set_faults({{.number = SYS_read, .errnum = ESRCH}});
  CHECK(!read_proc_file(::getpid(), "status"));
}

TEST(proc_file_interrupted_calls_go_on) {
  sys::set_faults({{.number = SYS_read, .times = 2, .errnum = EINTR},
                   {.number = SYS_openat, .times = 1, .errnum = EINTR}});
  CHECK(read_proc_file(::getpid(), "status").has_value());
}

TEST(proc_file_errors_have_codes) {
  sys::set_faults({{.number = SYS_openat, .times = 1, .errnum = EACCES},
                   {.number = SYS_openat, .times = 1, .errnum = EMFILE},
                   {.number = SYS_read, .times = 1, .errnum = EIO}});
  CHECK_THROWS("PERMISSION", read_proc_file(::getpid(), "maps"));
  CHECK_THROWS("SYSTEM", read_proc_file(::getpid(), "maps"));
  try {
    read_proc_file(::getpid(), "maps");
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(error.code(), "SYSTEM");
    CHECK_EQ(error.call(), "read");
    CHECK_EQ(error.err(), EIO);
    CHECK_EQ(error.pid(), ::getpid());
  }
}

TEST(proc_file_kernel_file_may_be_absent) {
  CHECK(!read_kernel_file("/proc/sys/no/such/file"));
  CHECK(read_kernel_file("/proc/sys/kernel/ostype") == "Linux\n");
  sys::set_faults({{.number = SYS_openat, .errnum = EACCES}});
  CHECK(!read_kernel_file("/proc/sys/kernel/ostype"));
}

TEST(proc_file_link) {
  const auto exe = read_proc_link(::getpid(), "exe");
  CHECK(exe.has_value());
  CHECK(exe->starts_with('/'));
}

TEST(text_cursor_numbers) {
  uint64_t value = 0;
  CHECK(TextCursor("ffffffffffffffff").take_hex(value));
  CHECK_EQ(value, ~uint64_t{0});
  CHECK(TextCursor("18446744073709551615 ").take_decimal(value));
  CHECK_EQ(value, ~uint64_t{0});
  for (const char* bad : {"", " 1", "-1", "+1", "x", "10000000000000000000000"}) {
    TextCursor cursor(bad);
    CHECK(!cursor.take_decimal(value));
    CHECK_EQ(cursor.rest(), bad);
  }
  CHECK(!TextCursor("10000000000000000").take_hex(value));
  int64_t number = 0;
  CHECK(TextCursor("-9223372036854775808").take_signed(number));
  CHECK_EQ(number, INT64_MIN);
  CHECK(TextCursor("01777777777777777777777").take_octal(value));
  CHECK_EQ(value, ~uint64_t{0});
  CHECK(!TextCursor("8").take_octal(value));
  CHECK(!TextCursor("9223372036854775808").take_signed(number));
}

TEST(text_cursor_lines) {
  TextCursor cursor("a\n\nb");
  std::string_view line;
  CHECK(cursor.take_line(line));
  CHECK_EQ(line, "a");
  CHECK(cursor.take_line(line));
  CHECK_EQ(line, "");
  CHECK(cursor.take_line(line));
  CHECK_EQ(line, "b");
  CHECK(!cursor.take_line(line));
}

TEST(malformed_text_is_quoted_safely) {
  try {
    throw_malformed("maps", std::string("a\x1b[31m\0b", 8) + std::string(10000, 'x'));
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.find("a\\x1b[31m\\x00b") != std::string::npos);
    CHECK(message.size() < 400);
  }
}

}  // namespace sluice::test
