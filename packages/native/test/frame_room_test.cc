// Where a return frame may be put. A wrong yes destroys live data of the target, so everything that
// is not known to be a stack must be refused.
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <thread>

#include "check.h"
#include "kernel/proc_maps.h"
#include "target/thread_remote.h"

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

}  // namespace sluice::test
