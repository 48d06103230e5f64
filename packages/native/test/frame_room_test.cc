// Where a return frame may be put. A wrong yes destroys live data of the target, so everything that
// is not known to be a stack must be refused.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <thread>

#include "check.h"
#include "child.h"
#include "coroutine.h"
#include "kernel/proc_maps.h"
#include "rig.h"
#include "target/arch.h"
#include "target/frame_room.h"

namespace sluice::test {
namespace {

constexpr size_t kFrame = 3392;
// The least distance of a stack pointer from the start of its mapping.
constexpr uint64_t kLeast = arch::kRedZoneBytes + kFrame + arch::kFrameAlignment;

Mapping mapping(uint64_t start, uint64_t end, const char* protection, const char* path = "") {
  Mapping made;
  made.start = start;
  made.end = end;
  made.readable = protection[0] == 'r';
  made.writable = protection[1] == 'w';
  made.shared = protection[3] == 's';
  made.inode = path[0] == '/' ? 1 : 0;
  made.path = path;
  return made;
}

bool has_room(const std::vector<Mapping>& maps, uint64_t sp, uint64_t thread_pointer) {
  const auto room = frame_room(maps, RemotePtr(sp), RemotePtr(thread_pointer), kFrame);
  if (!room) {
    return false;
  }
  // In the mapping of the stack pointer, aligned, whole, and clear of the red zone.
  CHECK_EQ(room->value() % arch::kFrameAlignment, 0u);
  CHECK(room->value() + kFrame <= sp - arch::kRedZoneBytes);
  for (const Mapping& m : maps) {
    if (m.start <= sp && sp < m.end) {
      CHECK(room->value() >= m.start);
    }
  }
  return true;
}

// Of the calling thread, with the mappings and control block that it really has.
bool has_room_here(uint64_t sp) {
  return has_room(read_maps(::getpid()), sp,
                  reinterpret_cast<uint64_t>(__builtin_thread_pointer()));
}
__attribute__((noinline)) uint64_t here() {
  return reinterpret_cast<uint64_t>(__builtin_frame_address(0));
}

// Of a thread on a stack of its own choice, with a page of this protection below.
bool has_room_above(int protection) {
  constexpr size_t kStack = 262144;
  char* memory = static_cast<char*>(
      ::mmap(nullptr, kStack + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK_EQ(::mprotect(memory, 4096, protection), 0);
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstack(&attributes, memory + 4096, kStack);
  bool room = false;
  const auto look = [](void* result) -> void* {
    *static_cast<bool*>(result) = has_room_here(here());
    return nullptr;
  };
  pthread_t thread;
  CHECK_EQ(::pthread_create(&thread, &attributes, look, &room), 0);
  ::pthread_join(thread, nullptr);
  ::pthread_attr_destroy(&attributes);
  ::munmap(memory, kStack + 4096);
  return room;
}

// Has nothing but zeros at the low end of its stack, and makes no call from there.
__attribute__((noinline, no_sanitize("address"))) void trap_above_zeros(size_t touched_from) {
  char memory[524288];
  volatile char* const locals = memory;
  locals[touched_from] = 0;
  // No register points to what it touched.
  __asm__ volatile("xor %%eax, %%eax; xor %%ecx, %%ecx; xor %%edx, %%edx; int3" ::
                       : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
}

// Waits in a signal handler on an alternate stack.
void wait_above_zeros(size_t touched_from) {
  static std::array<char, 65536> alternate;
  const stack_t stack{alternate.data(), 0, alternate.size()};
  CHECK_EQ(::sigaltstack(&stack, nullptr), 0);
  struct sigaction action{};
  action.sa_flags = SA_ONSTACK;
  action.sa_handler = [](int) { ::pause(); };
  CHECK_EQ(::sigaction(SIGTRAP, &action, nullptr), 0);
  trap_above_zeros(touched_from);
}

}  // namespace

TEST(frame_room_table) {
  const auto stack = [](const char* protection, const char* path = "") {
    return mapping(0x20000, 0x40000, protection, path);
  };
  const Mapping guard = mapping(0x1f000, 0x20000, "---p");
  const Mapping neighbour = mapping(0x1f000, 0x20000, "rw-p");
  struct Case {
    const char* what;
    std::vector<Mapping> maps;
    uint64_t sp;
    uint64_t thread_pointer;
    bool room;
  };
  const Case cases[] = {
      {"main", {stack("rw-p", "[stack]")}, 0x3f000, 0x70000, true},
      {"main, on the alignment", {stack("rw-p", "[stack]")}, 0x3f040, 0x70000, true},
      {"main, just enough", {stack("rw-p", "[stack]")}, 0x20000 + kLeast, 0x70000, true},
      {"main, too little", {stack("rw-p", "[stack]")}, 0x20000 + kLeast - 1, 0x70000, false},
      {"main, nothing", {stack("rw-p", "[stack]")}, 0x20000, 0x70000, false},
      {"main, with a neighbour", {neighbour, stack("rw-p", "[stack]")}, 0x3f000, 0x70000, true},
      {"thread with guard", {guard, stack("rw-p")}, 0x3e000, 0x3f8c0, true},
      {"thread above a gap", {stack("rw-p")}, 0x3e000, 0x3f8c0, true},
      {"thread, too little", {guard, stack("rw-p")}, 0x20000 + kLeast - 1, 0x3f8c0, false},
      {"thread without guard", {neighbour, stack("rw-p")}, 0x3e000, 0x3f8c0, false},
      {"thread with a named stack", {guard, stack("rw-p", "[anon:stack]")}, 0x3e000, 0x3f8c0, true},
      // Stacks of coroutines, alternate stacks: the thread's control block is elsewhere.
      {"coroutine", {guard, stack("rw-p")}, 0x3e000, 0x70000, false},
      {"coroutine on the heap", {stack("rw-p", "[heap]")}, 0x3e000, 0x70000, false},
      {"coroutine above the thread's own stack", {guard, stack("rw-p")}, 0x3fc00, 0x3f8c0, false},
      {"alternate stack in .bss", {stack("rw-p", "/bin/x")}, 0x3e000, 0x70000, false},
      // A file behind it: what is written there is seen elsewhere, or is no stack.
      {"mapped file", {guard, stack("rw-p", "/tmp/x")}, 0x3e000, 0x3f8c0, false},
      {"shared memory", {guard, stack("rw-s")}, 0x3e000, 0x3f8c0, false},
      {"shared main stack", {stack("rw-s", "[stack]")}, 0x3e000, 0x70000, false},
      {"write-protected", {guard, stack("r--p", "[stack]")}, 0x3e000, 0x3f8c0, false},
      {"unreadable", {guard, stack("-w-p", "[stack]")}, 0x3e000, 0x3f8c0, false},
      {"in a gap", {guard, stack("rw-p")}, 0x50000, 0x70000, false},
      {"below everything", {stack("rw-p", "[stack]")}, 0x1000, 0x70000, false},
      {"at the end", {stack("rw-p", "[stack]")}, 0x40000, 0x70000, false},
      {"no mappings", {}, 0x3e000, 0x3f8c0, false},
  };
  for (const Case& c : cases) {
    if (has_room(c.maps, c.sp, c.thread_pointer) != c.room) {
      throw Failure{__FILE__, __LINE__, c.what};
    }
  }
}

TEST(frame_room_of_real_stacks) {
  CHECK(has_room_here(here()));
  bool in_thread = false;
  bool in_altstack = true;
  bool in_coroutine = true;
  std::thread([&] {
    in_thread = has_room_here(here());
    static std::array<char, 65536> alternate;
    in_altstack = has_room_here(reinterpret_cast<uint64_t>(alternate.data() + 60000));
    const auto heap = std::make_unique<std::array<char, 262144>>();
    in_coroutine = has_room_here(reinterpret_cast<uint64_t>(heap->data() + 260000));
  }).join();
  CHECK(in_thread);
  CHECK(!in_altstack);
  CHECK(!in_coroutine);
}

TEST(frame_room_of_a_real_thread_needs_a_guard) {
  CHECK(has_room_above(PROT_NONE));
  CHECK(!has_room_above(PROT_READ));
  CHECK(!has_room_above(PROT_WRITE));
}

TEST(frame_room_on_left_stack_of_interrupted_code) {
  // Of one that has not touched all of its stack, the stack pointer is below the mapping.
  for (const size_t touched_from : {0, 262144}) {
    const Child child([] {}, [=] { return wait_above_zeros(touched_from), 0; });
    wait_until("it waits", [&] { return blocked_in(child.pid(), child.pid()) == SYS_pause; });
    const TargetMemory memory(child.pid());
    const auto maps = read_maps(child.pid());
    arch::Registers registers{};
    TracerTask task;
    task.run([&] {
      Tracee tracee(child.pid());
      CHECK(tracee.seize(0) && tracee.interrupt());
      CHECK(tracee.wait(far_off()) == Stop::kEvent);
      CHECK(tracee.get_registers(&registers));
    });
    std::vector<uint8_t> low(65536);
    CHECK(memory.read(RemotePtr(main_stack_of(child.pid()).start), low.data(), low.size()));
    CHECK_EQ(std::count(low.begin(), low.end(), 0), static_cast<ptrdiff_t>(low.size()));
    CHECK(!frame_room_on_left_stack(memory, maps, arch::stack_pointer(registers), kFrame));
  }
}

TEST(frame_room_on_left_stack) {
  // The first page that is not all zeros, by its distance from the start; 0: none.
  struct Case {
    const char* what;
    uint64_t dirty_at;
    bool room;
  };
  const Case cases[] = {
      {"zeros only", 0, true},
      {"the first byte of all", 1, false},
      {"a byte within the margin", kFrame + 16384, false},
      {"a byte at the end of the margin", kFrame + 32768, false},
      {"a byte above it", kFrame + 32769, true},
  };
  for (const Case& c : cases) {
    const Child child([&] {
      fill_unused_stack(0);
      if (c.dirty_at != 0) {
        *reinterpret_cast<volatile char*>(main_stack_of(::getpid()).start + c.dirty_at - 1) = 1;
      }
    });
    const TargetMemory memory(child.pid());
    const auto maps = read_maps(child.pid());
    const Mapping stack = main_stack_of(child.pid());
    // Where no word points to a stack.
    const RemotePtr elsewhere(maps.front().start);
    const auto room = frame_room_on_left_stack(memory, maps, elsewhere, kFrame);
    if (room.has_value() != c.room) {
      throw Failure{__FILE__, __LINE__, c.what};
    }
    if (room) {
      CHECK_EQ(room->value(), stack.start);
    }
    // It is in use, or there is too little of it, or it is none.
    for (const uint64_t sp : {stack.start, stack.end - 1}) {
      CHECK(!frame_room_on_left_stack(memory, maps, RemotePtr(sp), kFrame));
    }
    CHECK(!frame_room_on_left_stack(memory, maps, elsewhere, stack.end - stack.start));
    CHECK(!frame_room_on_left_stack(memory, {}, elsewhere, kFrame));
  }
}

}  // namespace sluice::test
