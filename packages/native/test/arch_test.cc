#include "target/arch.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "child.h"
#include "kernel/proc_maps.h"
#include "target/code_search.h"
#include "target/target_memory.h"

namespace sluice::test {
namespace {

const std::vector<uint8_t> kSyscallReturn = {0x0f, 0x05, 0xc3};
const std::vector<uint8_t> kLongSigreturn = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
const std::vector<uint8_t> kShortSigreturn = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};

// `bytes` of int3 with `piece` at `at`.
std::vector<uint8_t> code_with(size_t bytes, size_t at, const std::vector<uint8_t>& piece) {
  std::vector<uint8_t> code(bytes, 0xcc);
  std::copy(piece.begin(), piece.end(), code.begin() + static_cast<ptrdiff_t>(at));
  return code;
}

arch::Gadgets search(const std::vector<uint8_t>& code) {
  arch::Gadgets gadgets;
  arch::search_gadgets(code, RemotePtr(0x10000), &gadgets);
  return gadgets;
}

// Code of a child in a mapping of its own, as the only candidate for a search.
class ChildWithCode {
 public:
  explicit ChildWithCode(const std::vector<uint8_t>& code)
      : bytes_((code.size() + 4095) / 4096 * 4096),
        memory_(
            ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        child_([&] { std::memcpy(memory_, code.data(), code.size()); }) {}
  ~ChildWithCode() { ::munmap(memory_, bytes_); }
  ChildWithCode(const ChildWithCode&) = delete;
  ChildWithCode& operator=(const ChildWithCode&) = delete;

  uint64_t start() const { return reinterpret_cast<uint64_t>(memory_); }
  pid_t pid() const { return child_.pid(); }
  Mapping mapping() const {
    Mapping mapping;
    mapping.start = start();
    mapping.end = start() + bytes_;
    mapping.inode = 1;
    mapping.readable = mapping.executable = true;
    mapping.path = "/code";
    return mapping;
  }
  arch::Gadgets find() const { return find_gadgets(TargetMemory(pid()), {mapping()}); }

 private:
  size_t bytes_;
  void* memory_;
  Child child_;
};

}  // namespace

TEST(arch_finds_code_anywhere) {
  for (const size_t at : {size_t{0}, size_t{1}, size_t{1000}, size_t{4087}}) {
    CHECK_EQ(search(code_with(4096, at, kSyscallReturn)).syscall_return.value(), 0x10000 + at);
    CHECK_EQ(search(code_with(4096, at, kLongSigreturn)).sigreturn.value(), 0x10000 + at);
    CHECK_EQ(search(code_with(4096, at, kShortSigreturn)).sigreturn.value(), 0x10000 + at);
  }
}

TEST(arch_finds_no_code_that_is_not_whole) {
  for (const auto* piece : {&kSyscallReturn, &kLongSigreturn, &kShortSigreturn}) {
    auto code = code_with(4096, 4096 - piece->size(), *piece);
    code.pop_back();
    const arch::Gadgets gadgets = search(code);
    CHECK(!gadgets.complete());
    CHECK(!gadgets.sigreturn);
  }
  CHECK(!search({}).syscall_return);
  // A system call that does not return at once would run on into other code.
  CHECK(!search(code_with(64, 9, {0x0f, 0x05, 0x90, 0xc3})).syscall_return);
  // Another system call than rt_sigreturn.
  CHECK(!search(code_with(64, 9, {0xb8, 0x0e, 0, 0, 0, 0x0f, 0x05})).sigreturn);
}

TEST(arch_search_keeps_what_was_found_before) {
  arch::Gadgets gadgets{RemotePtr(1), RemotePtr()};
  auto code = code_with(64, 3, kSyscallReturn);
  std::copy(kLongSigreturn.begin(), kLongSigreturn.end(), code.begin() + 20);
  arch::search_gadgets(code, RemotePtr(0x10000), &gadgets);
  CHECK_EQ(gadgets.syscall_return.value(), 1u);
  CHECK_EQ(gadgets.sigreturn.value(), 0x10014u);
  CHECK(gadgets.complete());
}

TEST(arch_search_looks_across_windows) {
  constexpr size_t kWindow = size_t{1} << 20;
  for (size_t before = 0; before <= kLongSigreturn.size(); ++before) {
    auto code = code_with(2 * kWindow + 4096, kWindow - before, kLongSigreturn);
    std::copy(kSyscallReturn.begin(), kSyscallReturn.end(),
              code.begin() + static_cast<ptrdiff_t>(2 * kWindow - before % 4));
    const ChildWithCode child(code);
    const arch::Gadgets gadgets = child.find();
    CHECK_EQ(gadgets.sigreturn.value(), child.start() + kWindow - before);
    // The sequence of rt_sigreturn ends in the bytes of a system call, but not in a return.
    CHECK_EQ(gadgets.syscall_return.value(), child.start() + 2 * kWindow - before % 4);
  }
}

TEST(arch_search_tells_what_is_absent) {
  CHECK(!ChildWithCode(code_with(8192, 5, kSyscallReturn)).find().complete());
  CHECK(!ChildWithCode(code_with(8192, 5, kShortSigreturn)).find().complete());
  auto both = code_with(8192, 5, kShortSigreturn);
  std::copy(kSyscallReturn.begin(), kSyscallReturn.end(), both.begin() + 8192 - 3);
  const ChildWithCode child(both);
  CHECK(child.find().complete());
  // Not in memory that may change: writable, shared, or of no file.
  const TargetMemory memory(child.pid());
  for (bool Mapping::* flag : {&Mapping::writable, &Mapping::shared}) {
    Mapping mapping = child.mapping();
    mapping.*flag = true;
    CHECK(!find_gadgets(memory, {mapping}).complete());
  }
  Mapping anonymous = child.mapping();
  anonymous.inode = 0;
  anonymous.path = "";
  CHECK(!find_gadgets(memory, {anonymous}).complete());
}

TEST(arch_code_of_a_real_process_stands) {
  const Child child([] {});
  const TargetMemory memory(child.pid());
  arch::Gadgets gadgets = find_gadgets(memory, read_maps(child.pid()));
  CHECK(gadgets.complete());
  CHECK(gadgets_stand(memory, gadgets));
  CHECK(!gadgets_stand(memory, {gadgets.syscall_return + 1, gadgets.sigreturn}));
  CHECK(!gadgets_stand(memory, {gadgets.syscall_return, gadgets.sigreturn + 1}));
  CHECK(!gadgets_stand(memory, {RemotePtr(0x1000), gadgets.sigreturn}));
  CHECK(!gadgets_stand(memory, {}));
}

TEST(arch_native_executable) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = EM_X86_64;
  const auto is_native = [](const Elf64_Ehdr& h, size_t bytes = sizeof(Elf64_Ehdr)) {
    return arch::is_native_executable({reinterpret_cast<const uint8_t*>(&h), bytes});
  };
  CHECK(is_native(header));
  CHECK(!is_native(header, sizeof header - 1));
  CHECK(!is_native(header, 0));
  Elf64_Ehdr other = header;
  other.e_machine = EM_AARCH64;
  CHECK(!is_native(other));
  other = header;
  other.e_ident[EI_CLASS] = ELFCLASS32;  // x32 and i386
  CHECK(!is_native(other));
  other = header;
  other.e_ident[0] = '#';
  CHECK(!is_native(other));
}

}  // namespace sluice::test
