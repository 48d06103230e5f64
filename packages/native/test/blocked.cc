#include "blocked.h"

#include <linux/futex.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "check.h"

namespace sluice::test {
namespace {

constexpr uint64_t kUsr1 = 1ull << (SIGUSR1 - 1);
constexpr uint64_t kUsr2 = 1ull << (SIGUSR2 - 1);
// Of the child: a mask of its own, so that a wrong one shows.
constexpr uint64_t kMask = kUsr1 | kUsr2 | 1ull << (SIGHUP - 1);

template <typename T>
uint64_t address(T* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

uint64_t fd_argument(int fd) { return static_cast<uint64_t>(fd); }
constexpr uint64_t kNever = ~0ull;

using K = BlockedKind;

void write_a_byte(Blocked& b) { CHECK_EQ(::write(K::writer(b), "x", 1), 1); }
void send_usr1(Blocked& b) { ::kill(b.pid(), SIGUSR1); }

HeldCall read_call(Blocked& b) {
  return {SYS_read, {fd_argument(K::reader(b)), address(&K::memory(b)->byte), 1}};
}

std::atomic<int>* g_handled = nullptr;

}  // namespace

const std::vector<BlockedKind>& blocked_kinds() {
  static const std::vector<BlockedKind> kinds = {
      {"futex",
       [](Blocked& b) -> HeldCall {
         return {SYS_futex, {address(&K::memory(b)->futex), FUTEX_WAIT, 0, 0}};
       },
       [](Blocked& b) {
         K::memory(b)->futex = 1;
         ::syscall(SYS_futex, &K::memory(b)->futex, FUTEX_WAKE, 1);
       },
       0, -EAGAIN},
      {"read", read_call, write_a_byte, 1},
      {"poll",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->ready = {K::reader(b), POLLIN, 0};
         return {SYS_poll, {address(&K::memory(b)->ready), 1, kNever}};
       },
       write_a_byte, 1},
      // Its mask differs from the ordinary one while it waits.
      {"ppoll",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->ready = {K::reader(b), POLLIN, 0};
         K::memory(b)->signals = kUsr2;
         return {SYS_ppoll,
                 {address(&K::memory(b)->ready), 1, 0, address(&K::memory(b)->signals), 8}};
       },
       write_a_byte, 1},
      {"sigsuspend",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->signals = kMask & ~kUsr1;
         return {SYS_rt_sigsuspend, {address(&K::memory(b)->signals), 8}};
       },
       send_usr1, -EINTR},
      // From here on the kernel lets each stop end the call with EINTR.
      {"epoll_wait",
       [](Blocked& b) -> HeldCall {
         return {SYS_epoll_wait,
                 {fd_argument(K::epoll(b)), address(&K::memory(b)->event), 1, kNever}};
       },
       write_a_byte, 1},
      {"epoll_pwait",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->signals = kUsr2;
         return {SYS_epoll_pwait,
                 {fd_argument(K::epoll(b)), address(&K::memory(b)->event), 1, kNever,
                  address(&K::memory(b)->signals), 8}};
       },
       write_a_byte, 1},
      {"semtimedop",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->semaphore = {0, -1, 0};
         return {SYS_semtimedop,
                 {fd_argument(K::semaphores(b)), address(&K::memory(b)->semaphore), 1, 0}};
       },
       [](Blocked& b) {
         sembuf up{0, 1, 0};
         CHECK_EQ(::semop(K::semaphores(b), &up, 1), 0);
       },
       0},
      {"sigtimedwait",
       [](Blocked& b) -> HeldCall {
         K::memory(b)->signals = kUsr1;
         return {SYS_rt_sigtimedwait, {address(&K::memory(b)->signals), 0, 0, 8}};
       },
       send_usr1, SIGUSR1},
      {"recv with a timeout",
       [](Blocked& b) -> HeldCall {
         const timeval hour{3600, 0};
         ::setsockopt(K::reader(b), SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour);
         return {SYS_recvfrom, {fd_argument(K::reader(b)), address(&K::memory(b)->byte), 1, 0}};
       },
       write_a_byte, 1},
      {"read with a timeout",
       [](Blocked& b) -> HeldCall {
         const timeval hour{3600, 0};
         ::setsockopt(K::reader(b), SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour);
         return read_call(b);
       },
       write_a_byte, 1},
  };
  return kinds;
}

namespace {

int make_semaphore() {
  const int id = ::semget(IPC_PRIVATE, 1, 0600);
  CHECK(id >= 0);
  CHECK_EQ(::semctl(id, 0, SETVAL, 0), 0);
  return id;
}

}  // namespace

// The descriptors must exist before the child does.
Blocked::Blocked(const BlockedKind& kind)
    : kind_(kind),
      epoll_([this] {
        CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds_), 0);
        const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
        epoll_event readable{EPOLLIN, {}};
        CHECK_EQ(::epoll_ctl(epoll, EPOLL_CTL_ADD, fds_[0], &readable), 0);
        return epoll;
      }()),
      semaphores_(make_semaphore()),
      child_([] {}, [this] { return run(); }) {}

Blocked::~Blocked() {
  child_.end();
  ::semctl(semaphores_, 0, IPC_RMID);
  ::close(epoll_);
  ::close(fds_[0]);
  ::close(fds_[1]);
}

int Blocked::run() {
  struct sigaction counting{};
  counting.sa_handler = [](int) { ++*g_handled; };
  g_handled = &memory_->handled;
  ::sigaction(SIGUSR1, &counting, nullptr);
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &kMask, nullptr, 8);
  std::string wrong = hold_in_call(7, kind_.call(*this), &memory_->result);
  memory_->returned = 1;
  uint64_t mask = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, nullptr, &mask, 8);
  if (mask != kMask) {
    wrong += " signal mask";
  }
  wrong.copy(memory_->wrong, sizeof memory_->wrong - 1);
  return wrong.empty() ? 0 : 1;
}

bool Blocked::still_there() const { return memory_->returned == 0; }

void Blocked::wait_blocked() {
  wait_until("it sleeps in its call", [&] {
    if (!still_there()) {
      throw Failure{__FILE__, __LINE__,
                    std::string(kind_.name) + " returned " + std::to_string(memory_->result)};
    }
    return state_of(pid(), pid()) == 'S' && blocked_in(pid(), pid()) >= 0 &&
           status_line(pid(), "TracerPid") == "0";
  });
}

void Blocked::finish() {
  kind_.happens(*this);
  check(kind_.result);
}

void Blocked::finish_happened() { check(kind_.result_if_late); }

void Blocked::check(long expected) {
  const int status = child_.finish();
  const int handled = expected == -EINTR ? 1 : 0;
  if (status != 0 || memory_->result != expected || memory_->handled != handled) {
    throw Failure{__FILE__, __LINE__,
                  std::string(kind_.name) + " returned " + std::to_string(memory_->result) +
                      ", handled " + std::to_string(memory_->handled) +
                      ", changed:" + memory_->wrong + ", exit " + std::to_string(status)};
  }
}

}  // namespace sluice::test
