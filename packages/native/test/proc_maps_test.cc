#include "kernel/proc_maps.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>

#include "base/page_range.h"
#include "check.h"
#include "child.h"
#include "kernel/proc_file.h"

namespace sluice::test {
namespace {

using Random = std::mt19937_64;

// As the kernel prints it: the path stands at column 73 or one blank after the inode.
std::string print_mapping(const Mapping& m) {
  char head[128];
  const int length =
      std::snprintf(head, sizeof(head), "%08lx-%08lx %c%c%c%c %08lx %02x:%02x %lu ", m.start, m.end,
                    m.readable ? 'r' : '-', m.writable ? 'w' : '-', m.executable ? 'x' : '-',
                    m.shared ? 's' : 'p', m.offset, m.dev_major, m.dev_minor, m.inode);
  std::string line(head, static_cast<size_t>(length));
  if (!m.path.empty()) {
    line.resize(std::max<size_t>(line.size(), 73), ' ');
    line += m.path;
  }
  return line + "\n";
}

// The plain way to read it, for lines that are well formed.
std::vector<Mapping> parse_naively(const std::string& text) {
  std::vector<Mapping> maps;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    Mapping m;
    char flags[8] = "";
    int path_at = 0;
    const int fields =
        std::sscanf(line.c_str(), "%lx-%lx %7s %lx %x:%x %lu %n", &m.start, &m.end, flags,
                    &m.offset, &m.dev_major, &m.dev_minor, &m.inode, &path_at);
    CHECK_EQ(fields, 7);
    m.readable = flags[0] == 'r';
    m.writable = flags[1] == 'w';
    m.executable = flags[2] == 'x';
    m.shared = flags[3] == 's';
    m.path = line.substr(static_cast<size_t>(path_at));
    maps.push_back(m);
  }
  return maps;
}

std::string random_path(Random& random) {
  static const char* const kPaths[] = {"",
                                       "[heap]",
                                       "[anon:a name]",
                                       "/usr/lib/libc.so.6",
                                       "/a path/with  blanks ",
                                       "/new\\012line",
                                       "/memfd:x (deleted)",
                                       "anon_inode:[perf_event]",
                                       "/\xc3\xa4\xff\x01"};
  return kPaths[random() % std::size(kPaths)];
}

std::vector<Mapping> random_maps(Random& random, size_t count) {
  std::vector<Mapping> maps;
  uint64_t at = 0x10000;
  for (size_t i = 0; i < count; ++i) {
    Mapping m;
    m.start = at + random() % 3 * kPageBytes;
    m.end = at = m.start + (1 + random() % 1000) * kPageBytes;
    m.offset = random() >> (random() % 64);
    m.inode = random() >> (random() % 64);
    m.dev_major = static_cast<unsigned>(random() % 4096);
    m.dev_minor = static_cast<unsigned>(random() % (1 << 20));
    m.readable = random() % 2 == 0;
    m.writable = random() % 2 == 0;
    m.executable = random() % 2 == 0;
    m.shared = random() % 2 == 0;
    m.path = random_path(random);
    maps.push_back(m);
  }
  return maps;
}

std::string print_maps(const std::vector<Mapping>& maps) {
  std::string text;
  for (const Mapping& m : maps) {
    text += print_mapping(m);
  }
  return text;
}

// Whatever the text, the answer is SYSTEM or what the contract promises.
template <typename Parse>
void check_survives(Parse parse, std::string_view text) {
  try {
    uint64_t end_before = 0;
    for (const auto& m : parse(text)) {
      CHECK(m.start >= end_before && m.start < m.end);
      end_before = m.end;
    }
  } catch (const Error& error) {
    CHECK_EQ(error.code(), "SYSTEM");
  }
}

void damage(std::string& text, Random& random) {
  static constexpr char kBytes[] = "09afx-: \n\0\xff[/";
  for (size_t n = 1 + random() % 3; n > 0 && !text.empty(); --n) {
    const size_t at = random() % text.size();
    switch (random() % 3) {
      case 0:
        text[at] = kBytes[random() % (sizeof(kBytes) - 1)];
        break;
      case 1:
        text.erase(at, 1 + random() % 4);
        break;
      default:
        text.insert(at, 1, kBytes[random() % (sizeof(kBytes) - 1)]);
    }
  }
}

constexpr std::string_view kGoodLine = "00400000-00401000 r-xp 00001000 fe:00 1234 /bin/x\n";

constexpr std::string_view kSmaps =
    "00400000-00401000 r-xp 00000000 fe:00 1234                  /bin/x\n"
    "Size:                  4 kB\n"
    "FilePmdMapped:         0 kB\n"
    "VmFlags: rd ex mr mw me sd \n"
    "7fff0000-7fff2000 rw-p 00000000 00:00 0                      [stack]\n"
    "Size:                  8 kB\n"
    "VmFlags: rd wr mr mw me gd ac \n"
    "ProtectionKey:         0\n";

}  // namespace

TEST(maps_known_text) {
  const auto maps = parse_maps(
      "00400000-00452000 r-xp 00001000 fe:00 173521                     /usr/bin/a b\\012c "
      "(deleted)\n"
      "7ffd1000-7ffd3000 rw-s 00000000 00:00 0 \n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  CHECK_EQ(maps.size(), 3u);
  CHECK_EQ(maps[0].start, 0x400000u);
  CHECK_EQ(maps[0].end, 0x452000u);
  CHECK_EQ(maps[0].offset, 0x1000u);
  CHECK_EQ(maps[0].inode, 173521u);
  CHECK_EQ(protection_text(maps[0]), "r-x");
  CHECK_EQ(device_text(maps[0]), "fe:00");
  CHECK(!maps[0].shared);
  CHECK_EQ(maps[0].path, "/usr/bin/a b\\012c (deleted)");
  CHECK_EQ(file_path(maps[0]), "/usr/bin/a b\nc");
  CHECK(is_deleted(maps[0]));
  CHECK(maps[1].shared);
  CHECK_EQ(maps[1].path, "");
  CHECK_EQ(protection_text(maps[2]), "--x");
  CHECK(has_pseudo_path(maps[2]));
  CHECK_EQ(file_path(maps[2]), "");
}

TEST(maps_pseudo_path_is_never_deleted) {
  Mapping m;
  m.path = "[anon:x (deleted)";
  CHECK(!is_deleted(m));
  m.path = " (deleted)";
  CHECK(is_deleted(m));
  CHECK_EQ(file_path(m), "");
}

TEST(maps_like_naive_parser) {
  Random random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<Mapping> maps = random_maps(random, random() % 30);
    const std::string text = print_maps(maps);
    CHECK(parse_maps(text) == maps);
    CHECK(parse_naively(text) == maps);
  }
}

TEST(maps_sixty_thousand) {
  Random random(2);
  const std::vector<Mapping> maps = random_maps(random, 60000);
  CHECK(parse_maps(print_maps(maps)) == maps);
}

TEST(maps_malformed) {
  for (const char* bad : {
           "\n",
           " \n",
           "garbage\n",
           "-\n",
           "00400000\n",
           "00400000-\n",
           "00400000-00401000\n",
           "00400000-00401000 \n",
           "00400000-00401000 r-x\n",
           "00400000-00401000 r-xp\n",
           "00400000-00401000 r-xq 0 0:0 0\n",
           "00400000-00401000 x-rp 0 0:0 0\n",
           "00400000-00401000  r-xp 0 0:0 0\n",
           "00400000-00401000 r-xp zz 0:0 0\n",
           "00400000-00401000 r-xp 0 00 0\n",
           "00400000-00401000 r-xp 0 0: 0\n",
           "00400000-00401000 r-xp 0 0:0 \n",
           "00400000-00401000 r-xp 0 0:0 -1\n",
           "00400000-00401000 r-xp 0 0:0 12x\n",
           "00400000-00401000 r-xp 0 100000000:0 0\n",
           "0x400000-00401000 r-xp 0 0:0 0\n",           // prefix
           "00401000-00400000 r-xp 0 0:0 0\n",           // backwards
           "00400000-00400000 r-xp 0 0:0 0\n",           // empty
           "00400001-00401000 r-xp 0 0:0 0\n",           // not whole pages
           "00400000-10000000000000000 r-xp 0 0:0 0\n",  // too large
           "00400000-00401000 r-xp 0 0:0 99999999999999999999\n",
           "00400000-00402000 r-xp 0 0:0 0\n00401000-00402000 r-xp 0 0:0 0\n",  // within
           "00402000-00403000 r-xp 0 0:0 0\n00400000-00401000 r-xp 0 0:0 0\n",  // descending
           "00400000-00401000 r-xp 0 0:0 0",                                    // cut short
       }) {
    CHECK_THROWS("SYSTEM", parse_maps(bad));
  }
  CHECK(parse_maps("").empty());
}

TEST(maps_that_were_merged_meanwhile) {
  const auto cut = parse_maps("00400000-00402000 r-xp 0 0:0 0\n00401000-00403000 rw-p 0 0:0 0\n");
  CHECK_EQ(cut.size(), 2u);
  CHECK_EQ(cut[0].end, 0x401000u);
  CHECK(cut[1].writable && cut[1].start == 0x401000u);
  const auto merged = parse_maps(
      "00300000-00301000 r-xp 0 0:0 0\n00400000-00401000 r-xp 0 0:0 0\n"
      "00402000-00403000 r-xp 0 0:0 0\n00400000-00404000 rw-p 0 0:0 0\n");
  CHECK_EQ(merged.size(), 2u);
  CHECK_EQ(merged[0].end, 0x301000u);
  CHECK(merged[1].start == 0x400000u && merged[1].end == 0x404000u);
  const auto flags = parse_vm_flags(
      "00400000-00402000 r-xp 0 0:0 0\nVmFlags: rd\n00401000-00403000 r-xp 0 0:0 0\nVmFlags: "
      "wr\n");
  CHECK_EQ(flags.size(), 2u);
  CHECK_EQ(flags[0].end, 0x401000u);
  CHECK_EQ(flags[1].flags, "wr");
}

TEST(maps_truncated) {
  for (size_t length = 1; length < kGoodLine.size(); ++length) {
    CHECK_THROWS("SYSTEM", parse_maps(kGoodLine.substr(0, length)));
  }
  CHECK_EQ(parse_maps(kGoodLine).size(), 1u);
}

TEST(maps_damaged) {
  Random random(3);
  const std::string good = print_maps(random_maps(random, 5));
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    damage(text, random);
    check_survives(parse_maps, text);
  }
}

TEST(maps_of_a_process) {
  const Child child([] {
    const int fd = ::memfd_create("two words\nand a line", 0);
    (void)!::ftruncate(fd, 8192);
    ::mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 4096);
  });
  const std::vector<Mapping> maps = read_maps(child.pid());
  CHECK(parse_naively(*read_proc_file(child.pid(), "maps")) == maps);
  const auto memfd = std::find_if(maps.begin(), maps.end(), [](const Mapping& m) {
    return file_path(m) == "/memfd:two words\nand a line";
  });
  CHECK(memfd != maps.end());
  CHECK(is_deleted(*memfd));
  CHECK(memfd->shared);
  CHECK_EQ(memfd->offset, 4096u);
  CHECK_EQ(memfd->end - memfd->start, 8192u);
}

TEST(maps_gone_or_without_memory) {
  Child child([] {});
  const pid_t pid = child.pid();
  ::kill(pid, SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  CHECK_THROWS("NO_SUCH_PROCESS", read_maps(pid));  // a zombie
  CHECK_THROWS("NO_SUCH_PROCESS", read_vm_flags(pid));
  child.end();
  CHECK_THROWS("NO_SUCH_PROCESS", read_maps(pid));
  CHECK_THROWS("NO_SUCH_PROCESS", read_vm_flags(pid));
}

TEST(vm_flags_known_text) {
  const auto flags = parse_vm_flags(kSmaps);
  CHECK_EQ(flags.size(), 2u);
  CHECK_EQ(flags[0].start, 0x400000u);
  CHECK_EQ(flags[0].end, 0x401000u);
  CHECK_EQ(flags[0].flags, "rd ex mr mw me sd");
  CHECK_EQ(flags[1].flags, "rd wr mr mw me gd ac");
}

TEST(vm_flags_codes) {
  CHECK(has_vm_flag("rd wr", "rd"));
  CHECK(has_vm_flag("rd wr", "wr"));
  CHECK(has_vm_flag("rd", "rd"));
  CHECK(!has_vm_flag("rd wr", "dw"));
  CHECK(!has_vm_flag("rd wr", "r"));
  CHECK(!has_vm_flag("rd wr", "rd wr"));
  CHECK(!has_vm_flag("", "rd"));
}

TEST(vm_flags_malformed) {
  const std::string header(kGoodLine);
  CHECK_THROWS("SYSTEM", parse_vm_flags(header));            // no flags
  CHECK_THROWS("SYSTEM", parse_vm_flags(header + header));   // none for the first
  CHECK_THROWS("SYSTEM", parse_vm_flags("VmFlags: rd \n"));  // of no mapping
  CHECK_THROWS("SYSTEM", parse_vm_flags(header + "VmFlags: rd \nVmFlags: rd \n"));
  CHECK_THROWS("SYSTEM", parse_vm_flags("0040 garbage\nVmFlags: rd \n"));
  CHECK_THROWS("SYSTEM", parse_vm_flags(header + "VmFlags: rd \n" + header + "VmFlags: rd \n"));
  for (size_t length = 1; length < kSmaps.size(); ++length) {
    check_survives(parse_vm_flags, kSmaps.substr(0, length));
  }
}

TEST(vm_flags_damaged) {
  Random random(4);
  for (int round = 0; round < 20000; ++round) {
    std::string text(kSmaps);
    damage(text, random);
    check_survives(parse_vm_flags, text);
  }
}

TEST(vm_flags_of_a_process) {
  void* const page =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ::madvise(page, kPageBytes, MADV_DONTDUMP);
  const Child child([] {});
  ::munmap(page, kPageBytes);

  const std::vector<VmFlags> flags = read_vm_flags(child.pid());
  const std::vector<Mapping> maps = read_maps(child.pid());
  CHECK_EQ(flags.size(), maps.size());
  bool found = false;
  for (size_t i = 0; i < maps.size(); ++i) {
    CHECK_EQ(flags[i].start, maps[i].start);
    CHECK_EQ(flags[i].end, maps[i].end);
    CHECK_EQ(has_vm_flag(flags[i].flags, "rd"), maps[i].readable);
    const auto address = reinterpret_cast<uint64_t>(page);
    if (maps[i].start <= address && address < maps[i].end) {
      found = true;
      CHECK(has_vm_flag(flags[i].flags, "dd"));
    }
  }
  CHECK(found);
}

}  // namespace sluice::test
