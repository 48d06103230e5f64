// More than 64 threads, each in another state: blocked in a system call of its own, or running with
// live registers of its own. Usage: threads64 DIRECTORY
//
// A blocked thread makes its call with a value of its own in every register that the kernel must
// keep, and looks at all of them when it comes back. It must not come back before it is woken, nor
// with EINTR, nor with a wrong result. "check" wakes each thread in the legitimate way and waits
// until all are blocked again; "check stopped" forgives those calls EINTR that signal(7) says a
// stop signal ends so, for the test that stops the process itself.
#include "target.h"

#include <arpa/inet.h>
#include <cpuid.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

// ---- Registers --------------------------------------------------------------------------------

// What guarded() loads into the registers, and, in a second one, what it found there afterwards.
// The assembly below knows the offsets.
struct registers {
  uint64_t general[14];      // 0: rbx rbp r12 r13 r14 r15 rdi rsi rdx r10 r8 r9 rax rsp
  uint64_t vector[32][8];    // 112: zmm0 to zmm31; as much of it as `width` says
  uint64_t mask[8];          // 2160: k1 to k7
  uint64_t red_zone[16];     // 2224: the 128 bytes below the stack pointer
  unsigned char x87[8][16];  // 2352: st0 to st7
  uint32_t mxcsr;            // 2480
  uint16_t fcw;              // 2484
  uint8_t carry;             // 2486
  uint8_t pad;
  uint64_t width;  // 2488: 16, 32 or 64 bytes a vector register
  uint64_t spin;   // 2496: 0 to make the system call in general[12], else turns of an empty loop
};
_Static_assert(offsetof(struct registers, vector) == 112, "known to the assembly");
_Static_assert(offsetof(struct registers, mask) == 2160, "known to the assembly");
_Static_assert(offsetof(struct registers, red_zone) == 2224, "known to the assembly");
_Static_assert(offsetof(struct registers, x87) == 2352, "known to the assembly");
_Static_assert(offsetof(struct registers, mxcsr) == 2480, "known to the assembly");
_Static_assert(offsetof(struct registers, width) == 2488, "known to the assembly");

long guarded(const struct registers* set, struct registers* found);

__asm__(
    ".text\n.globl guarded\n.type guarded,@function\nguarded:\n"
    "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  sub $40, %rsp\n"
    "  mov %rdi, 0(%rsp)\n  mov %rsi, 8(%rsp)\n"
    "  stmxcsr 16(%rsp)\n  fnstcw 20(%rsp)\n  mov %rsp, 24(%rsp)\n"
    // Vector registers.
    "  lea 112(%rdi), %rax\n"
    "  cmpq $64, 2488(%rdi)\n  je 3f\n  cmpq $32, 2488(%rdi)\n  je 2f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n  movdqu \\n*64(%rax), %xmm\\n\n.endr\n"
    "  jmp 4f\n"
    "2:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n  vmovdqu \\n*64(%rax), %ymm\\n\n.endr\n"
    "  jmp 4f\n"
    "3:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  vmovdqu64 \\n*64(%rax), %zmm\\n\n.endr\n"
    ".irp n,1,2,3,4,5,6,7\n  kmovw 2160+\\n*8(%rdi), %k\\n\n.endr\n"
    "4:\n"
    // Floating point: an empty stack, then eight values, last first.
    "  fninit\n"
    ".irp n,7,6,5,4,3,2,1,0\n  fldt 2352+\\n*16(%rdi)\n.endr\n"
    "  fldcw 2484(%rdi)\n  ldmxcsr 2480(%rdi)\n"
    // The red zone.
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n"
    "  mov 2224+(\\n-1)*8(%rdi), %rax\n  mov %rax, -\\n*8(%rsp)\n.endr\n"
    // General registers, rdi last.
    "  mov 0(%rdi), %rbx\n  mov 8(%rdi), %rbp\n  mov 16(%rdi), %r12\n  mov 24(%rdi), %r13\n"
    "  mov 32(%rdi), %r14\n  mov 40(%rdi), %r15\n  mov 56(%rdi), %rsi\n  mov 64(%rdi), %rdx\n"
    "  mov 72(%rdi), %r10\n  mov 80(%rdi), %r8\n  mov 88(%rdi), %r9\n  mov 96(%rdi), %rax\n"
    "  mov 2496(%rdi), %rcx\n  mov 48(%rdi), %rdi\n"
    "  test %rcx, %rcx\n  jz 5f\n"
    // dec keeps the carry flag, and nothing else here touches a register.
    "  stc\n"
    "6:\n  dec %rcx\n  jnz 6b\n"
    "  jmp 7f\n"
    "5:\n  syscall\n  stc\n"
    "7:\n"
    "  mov 8(%rsp), %rcx\n"
    "  setc 2486(%rcx)\n"
    "  mov %rbx, 0(%rcx)\n  mov %rbp, 8(%rcx)\n  mov %r12, 16(%rcx)\n  mov %r13, 24(%rcx)\n"
    "  mov %r14, 32(%rcx)\n  mov %r15, 40(%rcx)\n  mov %rdi, 48(%rcx)\n  mov %rsi, 56(%rcx)\n"
    "  mov %rdx, 64(%rcx)\n  mov %r10, 72(%rcx)\n  mov %r8, 80(%rcx)\n  mov %r9, 88(%rcx)\n"
    "  mov %rax, 96(%rcx)\n"
    "  mov %rsp, %rdx\n  sub 24(%rsp), %rdx\n  mov %rdx, 104(%rcx)\n"
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n"
    "  mov -\\n*8(%rsp), %rdx\n  mov %rdx, 2224+(\\n-1)*8(%rcx)\n.endr\n"
    "  fnstcw 2484(%rcx)\n  stmxcsr 2480(%rcx)\n"
    ".irp n,0,1,2,3,4,5,6,7\n  fstpt 2352+\\n*16(%rcx)\n.endr\n"
    "  mov 0(%rsp), %rdi\n  lea 112(%rcx), %rdx\n"
    "  cmpq $64, 2488(%rdi)\n  je 3f\n  cmpq $32, 2488(%rdi)\n  je 2f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n  movdqu %xmm\\n, \\n*64(%rdx)\n.endr\n"
    "  jmp 4f\n"
    "2:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n  vmovdqu %ymm\\n, \\n*64(%rdx)\n.endr\n"
    "  vzeroupper\n  jmp 4f\n"
    "3:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  vmovdqu64 %zmm\\n, \\n*64(%rdx)\n.endr\n"
    ".irp n,1,2,3,4,5,6,7\n  kmovw %k\\n, 2160+\\n*8(%rcx)\n.endr\n"
    "  vzeroupper\n"
    "4:\n"
    "  fninit\n  fldcw 20(%rsp)\n  ldmxcsr 16(%rsp)\n"
    "  add $40, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
    "  ret\n.size guarded,.-guarded\n");

static size_t g_vector_width = 16;
static bool g_avx512;

// ---- Threads ----------------------------------------------------------------------------------

struct worker;
struct state {
  const char* name;
  long number;                   // the call that it blocks in, or -1 for one that runs
  void (*arm)(struct worker*);   // by main, before each round, thread idle; may be NULL
  void (*body)(struct worker*);  // by the thread, once a round
  void (*wake)(struct worker*);  // by main, once a round
  bool stop_ends_it;             // by signal(7), a stop signal and SIGCONT end the call with EINTR
};

struct worker {
  const struct state* state;
  pthread_t thread;
  pid_t tid;
  uint32_t armed, entered, released, done;  // rounds; atomic
  uint32_t interrupted;                     // EINTR although nobody asked for it; atomic
  uint64_t progress;                        // turns of one that runs; atomic
  uint32_t signals;                         // handlers run; atomic
  uint32_t round;
  int fd[2];
  int other;
  long extra[4];
  void* memory;
  char wrong[200];
};

enum { kMaxWorkers = 128 };
static struct worker g_workers[kMaxWorkers];
static int g_worker_count;
static const char* g_dir;
static char g_absent[1024];
static __thread struct worker* t_self;

static uint32_t load(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static void store(uint32_t* at, uint32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

__attribute__((format(printf, 2, 3))) static void wrong(struct worker* w, const char* format, ...) {
  if (w->wrong[0] == 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(w->wrong, sizeof w->wrong, format, args);
    va_end(args);
  }
}

static void absent(const char* name) {
  size_t used = strlen(g_absent);
  snprintf(g_absent + used, sizeof g_absent - used, "%s\"%s\"", used ? "," : "", name);
}

static bool was_released(const struct worker* w) { return load(&w->released) >= w->round; }

static void set_registers(struct registers* set, uint64_t salt) {
  memset(set, 0, sizeof *set);
  fill(set, offsetof(struct registers, x87), salt, 2);
  for (int i = 0; i < 8; i++) {
    // A number: sign and exponent as of 1 to 2, a mantissa with its leading one.
    uint64_t mantissa = word_at(salt + (uint64_t)i, 3) | (uint64_t)1 << 63;
    memcpy(set->x87[i], &mantissa, 8);
    set->x87[i][8] = 0xff;
    set->x87[i][9] = 0x3f;
  }
  for (int i = 0; i < 8; i++) {
    set->mask[i] &= 0xffff;
  }
  set->mxcsr = 0x7f80;  // round towards zero, all masked
  set->fcw = 0x0b7f;    // round up, extended precision, all masked
  set->width = g_vector_width;
}

static void compare_registers(struct worker* w, const struct registers* set,
                              const struct registers* found) {
  static const char* names[] = {"rbx", "rbp", "r12", "r13", "r14", "r15", "rdi",
                                "rsi", "rdx", "r10", "r8",  "r9",  "rax"};
  for (int i = 0; i < 13; i++) {
    if (set->general[i] != found->general[i] && (i != 12 || set->spin != 0)) {
      wrong(w, "%s is %lx, was %lx", names[i], found->general[i], set->general[i]);
    }
  }
  if (found->general[13] != 0) {
    wrong(w, "rsp moved by %ld", (long)found->general[13]);
  }
  for (int i = 0; i < (set->width == 64 ? 32 : 16); i++) {
    if (memcmp(set->vector[i], found->vector[i], set->width) != 0) {
      wrong(w, "vector register %d changed", i);
    }
  }
  for (int i = 1; set->width == 64 && i < 8; i++) {
    if (set->mask[i] != (found->mask[i] & 0xffff)) {
      wrong(w, "mask register %d changed", i);
    }
  }
  for (int i = 0; i < 16; i++) {
    if (set->red_zone[i] != found->red_zone[i]) {
      wrong(w, "red zone changed %d bytes below the stack pointer", (i + 1) * 8);
    }
  }
  for (int i = 0; i < 8; i++) {
    if (memcmp(set->x87[i], found->x87[i], 10) != 0) {
      wrong(w, "st%d changed", i);
    }
  }
  if ((set->mxcsr & ~0x3fu) != (found->mxcsr & ~0x3fu)) {
    wrong(w, "mxcsr is %x, was %x", found->mxcsr, set->mxcsr);
  }
  if (set->fcw != found->fcw) {
    wrong(w, "fcw is %x, was %x", found->fcw, set->fcw);
  }
  if (set->spin != 0 && found->carry != 1) {
    wrong(w, "carry flag lost");
  }
}

// The system call in which this thread waits to be woken. EINTR that nobody asked for is counted
// and the call repeated. Returns like the kernel.
static long blocked6(struct worker* w, long number, long a, long b, long c, long d, long e,
                     long f) {
  for (;;) {
    struct registers set, found;
    set_registers(&set, (uint64_t)w->tid * 1000003 + w->round);
    const long args[] = {a, b, c, d, e, f};
    memcpy(&set.general[6], args, sizeof args);
    set.general[12] = (uint64_t)number;
    set.spin = 0;
    memset(&found, 0, sizeof found);
    long result = guarded(&set, &found);
    result = (long)found.general[12];
    compare_registers(w, &set, &found);
    if (result == -EINTR && !was_released(w)) {
      __atomic_add_fetch(&w->interrupted, 1, __ATOMIC_ACQ_REL);
      continue;
    }
    if (!was_released(w)) {
      wrong(w, "returned %ld before it was woken", result);
    }
    return result;
  }
}

#define ARG(x) ((long)(x))
#define blocked(w, n, ...) BLOCKED_PICK(__VA_ARGS__, B6, B5, B4, B3, B2, B1)(w, n, __VA_ARGS__)
#define BLOCKED_PICK(a, b, c, d, e, f, name, ...) name
#define B1(w, n, a) blocked6(w, n, ARG(a), 0, 0, 0, 0, 0)
#define B2(w, n, a, b) blocked6(w, n, ARG(a), ARG(b), 0, 0, 0, 0)
#define B3(w, n, a, b, c) blocked6(w, n, ARG(a), ARG(b), ARG(c), 0, 0, 0)
#define B4(w, n, a, b, c, d) blocked6(w, n, ARG(a), ARG(b), ARG(c), ARG(d), 0, 0)
#define B5(w, n, a, b, c, d, e) blocked6(w, n, ARG(a), ARG(b), ARG(c), ARG(d), ARG(e), 0)
#define B6(w, n, a, b, c, d, e, f) blocked6(w, n, ARG(a), ARG(b), ARG(c), ARG(d), ARG(e), ARG(f))

static void must(struct worker* w, long result, long expected) {
  if (result != expected) {
    wrong(w, "result %ld instead of %ld", result, expected);
  }
}

static void must_hold(struct worker* w, const void* found, const void* expected, size_t bytes) {
  if (memcmp(found, expected, bytes) != 0) {
    wrong(w, "wrong data");
  }
}

// For calls that only a signal ends.
static void must_be_signalled(struct worker* w, long result) {
  must(w, result, -EINTR);
  uint32_t got = __atomic_exchange_n(&w->signals, 0, __ATOMIC_ACQ_REL);
  if (got != 1) {
    wrong(w, "%u handlers ran instead of 1", got);
  }
}

static void on_signal(int number) {
  (void)number;
  __atomic_add_fetch(&t_self->signals, 1, __ATOMIC_ACQ_REL);
}

static sigset_t set_of(int number) {
  sigset_t set;
  sigemptyset(&set);
  if (number != 0) {
    sigaddset(&set, number);
  }
  return set;
}

// What a call that brings its own mask waits with. SIGCHLD stays blocked: even ignored it would end
// the call.
static sigset_t all_but_usr2(void) {
  sigset_t set;
  sigfillset(&set);
  sigdelset(&set, SIGUSR2);
  return set;
}

static void mask(int how, int number) {
  sigset_t set = set_of(number);
  pthread_sigmask(how, &set, NULL);
}

static void wake_signal(struct worker* w) { pthread_kill(w->thread, SIGUSR2); }

// What a round sends through pipes and sockets.
static uint64_t token(const struct worker* w, uint32_t round) {
  return word_at((uint64_t)(w - g_workers), round + 100);
}

static void wake_write(struct worker* w) {
  uint64_t t = token(w, load(&w->armed));
  if (write(w->fd[1], &t, sizeof t) != sizeof t) {
    die("%s: wake", w->state->name);
  }
}

static void open_pipe(struct worker* w) {
  if (w->fd[0] == w->fd[1] && pipe2(w->fd, O_CLOEXEC) != 0) {
    die("pipe");
  }
}

static void open_sockets(struct worker* w, int type) {
  if (w->fd[0] == w->fd[1] && socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, w->fd) != 0) {
    die("socketpair");
  }
}

static void must_be_token(struct worker* w, long result, const uint64_t* found) {
  uint64_t t = token(w, w->round);
  must(w, result, sizeof t);
  must_hold(w, found, &t, sizeof t);
}

static void must_read_token(struct worker* w) {
  uint64_t found = 0;
  must_be_token(w, read(w->fd[0], &found, sizeof found), &found);
}

// ---- Blocked states ---------------------------------------------------------------------------

static void read_body(struct worker* w) {
  uint64_t found = 0;
  must_be_token(w, blocked(w, SYS_read, w->fd[0], &found, sizeof found), &found);
}

static void readv_body(struct worker* w) {
  uint64_t found = 0;
  struct iovec parts[2] = {{&found, 3}, {(char*)&found + 3, 5}};
  must_be_token(w, blocked(w, SYS_readv, w->fd[0], parts, 2), &found);
}

static void splice_arm(struct worker* w) {
  open_pipe(w);
  if (w->memory == NULL) {
    w->memory = malloc(2 * sizeof(int));
    if (pipe2(w->memory, O_CLOEXEC) != 0) {
      die("pipe");
    }
  }
}

static void splice_body(struct worker* w) {
  const int* out = w->memory;
  long moved = blocked(w, SYS_splice, w->fd[0], 0, out[1], 0, 4096, 0);
  uint64_t found = 0;
  must(w, read(out[0], &found, sizeof found), sizeof found);
  must_be_token(w, moved, &found);
}

static void full_pipe_arm(struct worker* w) {
  open_pipe(w);
  int flags = fcntl(w->fd[1], F_GETFL);
  char page[4096];
  // Empties it of the last round, looking for what was written last.
  uint64_t last = 0;
  fcntl(w->fd[0], F_SETFL, O_NONBLOCK);
  for (ssize_t n; (n = read(w->fd[0], page, sizeof page)) > 0;) {
    memcpy(&last, page + n - 8, 8);
  }
  fcntl(w->fd[0], F_SETFL, 0);
  if (w->done != 0 && last != token(w, w->done)) {
    wrong(w, "wrong data in the pipe");
  }
  memset(page, 7, sizeof page);
  fcntl(w->fd[1], F_SETFL, flags | O_NONBLOCK);
  while (write(w->fd[1], page, sizeof page) > 0) {
  }
  fcntl(w->fd[1], F_SETFL, flags);
}

static void full_pipe_body(struct worker* w) {
  uint64_t t = token(w, w->round);
  must(w, blocked(w, SYS_write, w->fd[1], &t, sizeof t), sizeof t);
}

static void full_pipe_wake(struct worker* w) {
  char page[4096];
  if (read(w->fd[0], page, sizeof page) != sizeof page) {
    die("full pipe");
  }
}

static void full_socket_arm(struct worker* w) {
  open_sockets(w, SOCK_DGRAM);
  char page[4096] = {0};
  while (recv(w->fd[0], page, sizeof page, MSG_DONTWAIT) > 0) {
  }
  while (send(w->fd[1], page, sizeof page, MSG_DONTWAIT) > 0) {
  }
}

static void full_socket_body(struct worker* w) {
  uint64_t t = token(w, w->round);
  struct iovec part = {&t, sizeof t};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  must(w, blocked(w, SYS_sendmsg, w->fd[1], &message, 0), sizeof t);
}

static void full_socket_wake(struct worker* w) {
  char page[4096];
  while (recv(w->fd[0], page, sizeof page, MSG_DONTWAIT) > 0) {
  }
}

static void eventfd_arm(struct worker* w) {
  if (w->fd[0] == w->fd[1]) {
    w->fd[0] = eventfd(0, EFD_CLOEXEC);
    w->fd[1] = dup(w->fd[0]);
  }
}

static void eventfd_body(struct worker* w) {
  uint64_t found = 0;
  must(w, blocked(w, SYS_read, w->fd[0], &found, 8), 8);
  must(w, (long)found, 77);
}

static void eventfd_wake(struct worker* w) { eventfd_write(w->fd[1], 77); }

static void timerfd_arm(struct worker* w) {
  if (w->fd[0] == w->fd[1]) {
    w->fd[0] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    w->fd[1] = -1;
  }
  struct itimerspec far = {.it_value.tv_sec = 100000};
  timerfd_settime(w->fd[0], 0, &far, NULL);
}

static void timerfd_body(struct worker* w) {
  uint64_t found = 0;
  must(w, blocked(w, SYS_read, w->fd[0], &found, 8), 8);
  must(w, (long)found, 1);
}

static void timerfd_wake(struct worker* w) {
  struct itimerspec now = {.it_value.tv_nsec = 1};
  timerfd_settime(w->fd[0], 0, &now, NULL);
}

static void signalfd_arm(struct worker* w) {
  if (w->fd[0] == w->fd[1]) {
    sigset_t set = set_of(SIGRTMIN + 1);
    w->fd[0] = signalfd(-1, &set, SFD_CLOEXEC);
    w->fd[1] = -1;
  }
}

static void signalfd_body(struct worker* w) {
  struct signalfd_siginfo info = {0};
  must(w, blocked(w, SYS_read, w->fd[0], &info, sizeof info), sizeof info);
  must(w, (long)info.ssi_ptr, (long)token(w, w->round));
}

static void queue_token(struct worker* w, int number) {
  union sigval value = {.sival_ptr = (void*)token(w, load(&w->armed))};
  pthread_sigqueue(w->thread, number, value);
}

static void signalfd_wake(struct worker* w) { queue_token(w, SIGRTMIN + 1); }

static void sigwait_body(struct worker* w) {
  sigset_t set = set_of(SIGRTMIN + 2);
  siginfo_t info;
  must(w, blocked(w, SYS_rt_sigtimedwait, &set, &info, 0, 8), SIGRTMIN + 2);
  must(w, (long)info.si_value.sival_ptr, (long)token(w, w->round));
}

static void sigtimedwait_body(struct worker* w) {
  sigset_t set = set_of(SIGRTMIN + 2);
  siginfo_t info;
  struct timespec far = {.tv_sec = 100000};
  must(w, blocked(w, SYS_rt_sigtimedwait, &set, &info, &far, 8), SIGRTMIN + 2);
  must(w, (long)info.si_value.sival_ptr, (long)token(w, w->round));
}

static void sigwait_wake(struct worker* w) { queue_token(w, SIGRTMIN + 2); }

static void pause_body(struct worker* w) {
  mask(SIG_UNBLOCK, SIGUSR2);
  must_be_signalled(w, blocked(w, SYS_pause, 0));
}

static void sigsuspend_body(struct worker* w) {
  mask(SIG_BLOCK, SIGUSR2);
  sigset_t all = all_but_usr2(), before, after;
  pthread_sigmask(SIG_BLOCK, NULL, &before);
  must_be_signalled(w, blocked(w, SYS_rt_sigsuspend, &all, 8));
  pthread_sigmask(SIG_BLOCK, NULL, &after);
  must_hold(w, &after, &before, 8);
}

static void inotify_arm(struct worker* w) {
  if (w->fd[0] == w->fd[1]) {
    char path[512];
    snprintf(path, sizeof path, "%s/watched", g_dir);
    w->fd[1] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    w->fd[0] = inotify_init1(IN_CLOEXEC);
    inotify_add_watch(w->fd[0], path, IN_MODIFY);
  }
}

static void inotify_body(struct worker* w) {
  struct inotify_event event = {0};
  must(w, blocked(w, SYS_read, w->fd[0], &event, sizeof event), sizeof event);
  must(w, event.mask, IN_MODIFY);
}

static void recvfrom_arm(struct worker* w) { open_sockets(w, SOCK_STREAM); }

static void recvfrom_body(struct worker* w) {
  uint64_t found = 0;
  must_be_token(w, blocked(w, SYS_recvfrom, w->fd[0], &found, sizeof found, 0, 0, 0), &found);
}

// MSG_WAITALL, of which nothing has come yet: what has come in part, the kernel gives away at any
// stop of the thread.
static void waitall_body(struct worker* w) {
  uint64_t found = 0;
  must_be_token(w, blocked(w, SYS_recvfrom, w->fd[0], &found, sizeof found, MSG_WAITALL, 0, 0),
                &found);
}

static void recv_timeout_arm(struct worker* w) {
  open_sockets(w, SOCK_STREAM);
  struct timeval far = {.tv_sec = 100000};
  setsockopt(w->fd[0], SOL_SOCKET, SO_RCVTIMEO, &far, sizeof far);
}

static void udp_arm(struct worker* w) {
  if (w->fd[0] != w->fd[1]) {
    return;
  }
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof at;
  w->fd[0] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  w->fd[1] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (bind(w->fd[0], (struct sockaddr*)&at, size) != 0 ||
      getsockname(w->fd[0], (struct sockaddr*)&at, &size) != 0 ||
      connect(w->fd[1], (struct sockaddr*)&at, size) != 0) {
    die("udp");
  }
}

static void recvmsg_body(struct worker* w) {
  uint64_t found = 0;
  struct iovec part = {&found, sizeof found};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  must_be_token(w, blocked(w, SYS_recvmsg, w->fd[0], &message, 0), &found);
}

static void recvmmsg_body(struct worker* w) {
  uint64_t found = 0;
  struct iovec part = {&found, sizeof found};
  struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
  must(w, blocked(w, SYS_recvmmsg, w->fd[0], &message, 1, 0, 0), 1);
  must_be_token(w, message.msg_len, &found);
}

static void accept_arm(struct worker* w) {
  if (w->fd[0] != w->fd[1]) {
    return;
  }
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  w->fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  w->fd[1] = -1;
  if (bind(w->fd[0], (struct sockaddr*)&at, sizeof at) != 0 || listen(w->fd[0], 8) != 0) {
    die("listen");
  }
}

static void accept_body(struct worker* w) {
  struct sockaddr_in peer = {0};
  socklen_t size = sizeof peer;
  long fd = blocked(w, SYS_accept4, w->fd[0], &peer, &size, SOCK_CLOEXEC);
  if (fd < 0) {
    wrong(w, "accept: %ld", fd);
    return;
  }
  uint64_t found = 0, t = token(w, w->round);
  must(w, read((int)fd, &found, 8), 8);
  must_hold(w, &found, &t, 8);
  close((int)fd);
}

static void accept_wake(struct worker* w) {
  struct sockaddr_in at;
  socklen_t size = sizeof at;
  getsockname(w->fd[0], (struct sockaddr*)&at, &size);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  uint64_t t = token(w, load(&w->armed));
  if (connect(fd, (struct sockaddr*)&at, size) != 0 || write(fd, &t, 8) != 8) {
    die("connect");
  }
  close(fd);
}

// Abstract, so that no file is left.
static socklen_t backlog_address(struct sockaddr_un* at) {
  *at = (struct sockaddr_un){.sun_family = AF_UNIX};
  int n = snprintf(at->sun_path + 1, sizeof at->sun_path - 1, "sluice-test-%d", (int)getpid());
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

// A listener whose backlog is full.
static void connect_arm(struct worker* w) {
  struct sockaddr_un at;
  socklen_t size = backlog_address(&at);
  if (w->fd[0] == w->fd[1]) {
    w->fd[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    w->fd[1] = -1;
    if (bind(w->fd[0], (struct sockaddr*)&at, size) != 0 || listen(w->fd[0], 0) != 0) {
      die("listen");
    }
  }
  for (int fd; (fd = accept(w->fd[0], NULL, NULL)) >= 0;) {
    close(fd);
  }
  for (;;) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool full = connect(fd, (struct sockaddr*)&at, size) != 0;
    close(fd);
    if (full) {
      break;
    }
  }
  w->other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void connect_body(struct worker* w) {
  struct sockaddr_un at;
  socklen_t size = backlog_address(&at);
  must(w, blocked(w, SYS_connect, w->other, &at, size), 0);
  close(w->other);
}

static void connect_wake(struct worker* w) {
  for (int fd; (fd = accept(w->fd[0], NULL, NULL)) >= 0;) {
    close(fd);
  }
}

// Futex words lie in the worker: extra[0].
static uint32_t* futex_word(struct worker* w) { return (uint32_t*)&w->extra[0]; }

static void futex_body(struct worker* w) {
  must(w, blocked(w, SYS_futex, futex_word(w), FUTEX_WAIT_PRIVATE, w->round - 1, 0, 0, 0), 0);
}

static void futex_timeout_body(struct worker* w) {
  struct timespec far = {.tv_sec = 100000};
  must(w, blocked(w, SYS_futex, futex_word(w), FUTEX_WAIT_PRIVATE, w->round - 1, &far, 0, 0), 0);
}

static void futex_bitset_body(struct worker* w) {
  struct timespec far;
  clock_gettime(CLOCK_MONOTONIC, &far);
  far.tv_sec += 100000;
  must(w, blocked(w, SYS_futex, futex_word(w), FUTEX_WAIT_BITSET, w->round - 1, &far, 0, 0x10), 0);
}

static void futex_wake(struct worker* w) {
  store(futex_word(w), load(&w->armed));
  const bool shared = w->state->body == futex_bitset_body;
  syscall(SYS_futex, futex_word(w), shared ? FUTEX_WAKE_BITSET : FUTEX_WAKE_PRIVATE, 1, 0, 0, 0x10);
}

static void futex_waitv_body(struct worker* w) {
  struct {
    uint64_t value, address;
    uint32_t flags, reserved;
  } waits[2] = {{w->round - 1, (uint64_t)&w->extra[1], 2, 0},
                {w->round - 1, (uint64_t)futex_word(w), 2, 0}};
  must(w, blocked(w, 449, waits, 2, 0, 0, 0), 1);
  store((uint32_t*)&w->extra[1], w->round);
}

static void futex_waitv_wake(struct worker* w) {
  store(futex_word(w), load(&w->armed));
  syscall(SYS_futex, futex_word(w), FUTEX_WAKE, 1, 0, 0, 0);
}

// FUTEX_LOCK_PI on a word that main owns.
static void futex_pi_arm(struct worker* w) {
  uint32_t* word = futex_word(w);
  uint32_t none = 0;
  if (!__atomic_compare_exchange_n(word, &none, (uint32_t)gettid(), false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE)) {
    die("PI futex is not free");
  }
}

static void futex_pi_body(struct worker* w) {
  must(w, blocked(w, SYS_futex, futex_word(w), FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
  if ((load(futex_word(w)) & FUTEX_TID_MASK) != (uint32_t)w->tid) {
    wrong(w, "does not own the lock");
  }
  syscall(SYS_futex, futex_word(w), FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0);
}

static void futex_pi_wake(struct worker* w) {
  if (syscall(SYS_futex, futex_word(w), FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) != 0) {
    die("unlock of the PI futex");
  }
}

// Locks and conditions of the C library.
struct locks {
  pthread_mutex_t mutex;
  pthread_cond_t condition;
  pthread_rwlock_t rwlock;
  pthread_barrier_t barrier;
  sem_t semaphore;
};

static struct locks* locks_of(struct worker* w) {
  if (w->memory == NULL) {
    struct locks* locks = calloc(1, sizeof *locks);
    pthread_mutex_init(&locks->mutex, NULL);
    pthread_cond_init(&locks->condition, NULL);
    pthread_rwlock_init(&locks->rwlock, NULL);
    pthread_barrier_init(&locks->barrier, NULL, 2);
    sem_init(&locks->semaphore, 0, 0);
    w->memory = locks;
  }
  return w->memory;
}

static void locks_arm(struct worker* w) { locks_of(w); }
static void mutex_arm(struct worker* w) { pthread_mutex_lock(&locks_of(w)->mutex); }

static void must_be_released(struct worker* w) {
  if (!was_released(w)) {
    wrong(w, "returned before it was woken");
  }
}

static void mutex_body(struct worker* w) {
  must(w, pthread_mutex_lock(&locks_of(w)->mutex), 0);
  must_be_released(w);
  pthread_mutex_unlock(&locks_of(w)->mutex);
}

static void mutex_wake(struct worker* w) { pthread_mutex_unlock(&locks_of(w)->mutex); }

static void condition_body(struct worker* w) {
  struct locks* locks = locks_of(w);
  pthread_mutex_lock(&locks->mutex);
  while (!was_released(w)) {
    must(w, pthread_cond_wait(&locks->condition, &locks->mutex), 0);
  }
  pthread_mutex_unlock(&locks->mutex);
}

static void condition_timed_body(struct worker* w) {
  struct locks* locks = locks_of(w);
  struct timespec far;
  clock_gettime(CLOCK_REALTIME, &far);
  far.tv_sec += 100000;
  pthread_mutex_lock(&locks->mutex);
  while (!was_released(w)) {
    must(w, pthread_cond_timedwait(&locks->condition, &locks->mutex, &far), 0);
  }
  pthread_mutex_unlock(&locks->mutex);
}

static void condition_wake(struct worker* w) {
  struct locks* locks = locks_of(w);
  pthread_mutex_lock(&locks->mutex);
  pthread_cond_signal(&locks->condition);
  pthread_mutex_unlock(&locks->mutex);
}

static void rwlock_arm(struct worker* w) { pthread_rwlock_wrlock(&locks_of(w)->rwlock); }

static void rwlock_body(struct worker* w) {
  must(w, pthread_rwlock_rdlock(&locks_of(w)->rwlock), 0);
  must_be_released(w);
  pthread_rwlock_unlock(&locks_of(w)->rwlock);
}

static void rwlock_wake(struct worker* w) { pthread_rwlock_unlock(&locks_of(w)->rwlock); }

static void semaphore_body(struct worker* w) {
  // Only here does libc show EINTR.
  while (sem_wait(&locks_of(w)->semaphore) != 0) {
    __atomic_add_fetch(&w->interrupted, 1, __ATOMIC_ACQ_REL);
  }
  must_be_released(w);
}

static void semaphore_wake(struct worker* w) { sem_post(&locks_of(w)->semaphore); }

static void barrier_body(struct worker* w) {
  pthread_barrier_wait(&locks_of(w)->barrier);
  must_be_released(w);
}

static void barrier_wake(struct worker* w) { pthread_barrier_wait(&locks_of(w)->barrier); }

// Sleeps end early only by a signal; then the time that is left must be right.
static void must_be_left(struct worker* w, long result, const struct timespec* start,
                         const struct timespec* asked, const struct timespec* left) {
  must_be_signalled(w, result);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  double passed =
      (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
  double rest = (double)left->tv_sec + (double)left->tv_nsec / 1e9;
  double whole = (double)asked->tv_sec;
  if (rest > whole || rest < whole - passed - 1) {
    wrong(w, "%.3f s of %.0f left after %.3f", rest, whole, passed);
  }
}

static void nanosleep_body(struct worker* w) {
  mask(SIG_UNBLOCK, SIGUSR2);
  struct timespec start, far = {.tv_sec = 100000}, left = {0};
  clock_gettime(CLOCK_MONOTONIC, &start);
  long result = blocked(w, SYS_nanosleep, &far, &left);
  must_be_left(w, result, &start, &far, &left);
}

static void clock_nanosleep_body(struct worker* w) {
  mask(SIG_UNBLOCK, SIGUSR2);
  struct timespec start, far = {.tv_sec = 100000}, left = {0};
  clock_gettime(CLOCK_MONOTONIC, &start);
  long result = blocked(w, SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &far, &left);
  must_be_left(w, result, &start, &far, &left);
}

static void clock_nanosleep_until_body(struct worker* w) {
  mask(SIG_UNBLOCK, SIGUSR2);
  struct timespec far;
  clock_gettime(CLOCK_MONOTONIC, &far);
  far.tv_sec += 100000;
  must_be_signalled(w, blocked(w, SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &far, 0));
}

static void poll_body(struct worker* w) {
  struct pollfd fds[2] = {{.fd = -1}, {.fd = w->fd[0], .events = POLLIN}};
  must(w, blocked(w, SYS_poll, fds, 2, -1), 1);
  must(w, fds[1].revents, POLLIN);
  must_read_token(w);
}

static void poll_timeout_body(struct worker* w) {
  struct pollfd poll = {.fd = w->fd[0], .events = POLLIN};
  must(w, blocked(w, SYS_poll, &poll, 1, 100000000), 1);
  must_read_token(w);
}

static void must_be_less_than_far(struct worker* w, long seconds) {
  if (seconds > 100000 || seconds < 50000) {
    wrong(w, "%ld s left", seconds);
  }
}

static void ppoll_body(struct worker* w) {
  struct pollfd poll = {.fd = w->fd[0], .events = POLLIN};
  struct timespec far = {.tv_sec = 100000};
  sigset_t own = all_but_usr2(), before, after;
  pthread_sigmask(SIG_BLOCK, NULL, &before);
  must(w, blocked(w, SYS_ppoll, &poll, 1, &far, &own, 8), 1);
  pthread_sigmask(SIG_BLOCK, NULL, &after);
  must_hold(w, &after, &before, 8);
  must_be_less_than_far(w, far.tv_sec);
  must_read_token(w);
}

static void select_body(struct worker* w) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(w->fd[0], &set);
  struct timeval far = {.tv_sec = 100000};
  must(w, blocked(w, SYS_select, w->fd[0] + 1, &set, 0, 0, &far), 1);
  must(w, FD_ISSET(w->fd[0], &set), 1);
  must_be_less_than_far(w, far.tv_sec);
  must_read_token(w);
}

static void pselect_body(struct worker* w) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(w->fd[0], &set);
  sigset_t own = all_but_usr2();
  struct {
    const sigset_t* set;
    size_t size;
  } argument = {&own, 8};
  must(w, blocked(w, SYS_pselect6, w->fd[0] + 1, &set, 0, 0, 0, &argument), 1);
  must(w, FD_ISSET(w->fd[0], &set), 1);
  must_read_token(w);
}

static void epoll_arm(struct worker* w) {
  open_pipe(w);
  if (w->other == 0) {
    w->other = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 4711};
    epoll_ctl(w->other, EPOLL_CTL_ADD, w->fd[0], &event);
  }
}

static void must_be_event(struct worker* w, long result, const struct epoll_event* event) {
  must(w, result, 1);
  must(w, (long)event->data.u64, 4711);
  must_read_token(w);
}

static void epoll_wait_body(struct worker* w) {
  struct epoll_event event = {0};
  must_be_event(w, blocked(w, SYS_epoll_wait, w->other, &event, 1, -1), &event);
}

static void epoll_timeout_body(struct worker* w) {
  struct epoll_event event = {0};
  must_be_event(w, blocked(w, SYS_epoll_wait, w->other, &event, 1, 100000000), &event);
}

static void epoll_pwait2_body(struct worker* w) {
  struct epoll_event event = {0};
  struct timespec far = {.tv_sec = 100000};
  sigset_t own = all_but_usr2();
  must_be_event(w, blocked(w, 441, w->other, &event, 1, &far, &own, 8), &event);
}

// A child of this thread alone, which ends when a byte comes.
static pid_t start_child(struct worker* w) {
  pid_t child = fork();
  if (child == 0) {
    char byte[8];
    become_quiet_child(w->fd[0]);
    _exit(read(w->fd[0], byte, 8) == 8 ? 33 : 1);
  }
  if (child < 0) {
    die("fork");
  }
  return child;
}

static void wait4_body(struct worker* w) {
  int status = 0;
  pid_t child = start_child(w);
  must(w, blocked(w, SYS_wait4, -1, &status, __WNOTHREAD, 0), child);
  must(w, status, 33 << 8);
}

static void waitid_body(struct worker* w) {
  siginfo_t info = {0};
  pid_t child = start_child(w);
  must(w, blocked(w, SYS_waitid, P_ALL, 0, &info, WEXITED | __WNOTHREAD | __WALL, 0), 0);
  must(w, info.si_pid, child);
  must(w, info.si_status, 33);
}

static void msgrcv_arm(struct worker* w) {
  if (w->other == 0) {
    w->other = msgget(IPC_PRIVATE, 0600);
    w->fd[0] = w->fd[1] = -1;
  }
}

struct message {
  long type;
  uint64_t value;
};

static void msgrcv_body(struct worker* w) {
  struct message message = {0};
  must_be_token(w, blocked(w, SYS_msgrcv, w->other, &message, 8, 5, 0), &message.value);
}

static void msgrcv_wake(struct worker* w) {
  struct message message = {5, token(w, load(&w->armed))};
  msgsnd(w->other, &message, 8, 0);
}

static void msgsnd_arm(struct worker* w) {
  msgrcv_arm(w);
  struct message message;
  while (msgrcv(w->other, &message, 8, 0, IPC_NOWAIT) >= 0) {
  }
  message = (struct message){1, 0};
  while (msgsnd(w->other, &message, 8, IPC_NOWAIT) == 0) {
  }
}

static void msgsnd_body(struct worker* w) {
  struct message message = {2, token(w, w->round)};
  must(w, blocked(w, SYS_msgsnd, w->other, &message, 8, 0), 0);
  must_be_token(w, msgrcv(w->other, &message, 8, 2, IPC_NOWAIT), &message.value);
}

static void msgsnd_wake(struct worker* w) {
  struct message message;
  msgrcv(w->other, &message, 8, 1, 0);
}

static void sem_arm(struct worker* w) {
  if (w->other == 0) {
    w->other = semget(IPC_PRIVATE, 1, 0600);
    w->fd[0] = w->fd[1] = -1;
    semctl(w->other, 0, SETVAL, 0);
  }
}

static void semop_body(struct worker* w) {
  struct sembuf take = {0, -1, 0};
  must(w, blocked(w, SYS_semop, w->other, &take, 1), 0);
}

static void semtimedop_body(struct worker* w) {
  struct sembuf take = {0, -1, 0};
  struct timespec far = {.tv_sec = 100000};
  must(w, blocked(w, SYS_semtimedop, w->other, &take, 1, &far), 0);
}

static void sem_wake(struct worker* w) {
  struct sembuf give = {0, 1, 0};
  semop(w->other, &give, 1);
}

// Two open files of one path; main holds the lock on the first.
static void lock_arm(struct worker* w) {
  if (w->fd[0] == w->fd[1]) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", g_dir, w->state->name);
    w->fd[0] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    w->fd[1] = open(path, O_RDWR | O_CLOEXEC);
  }
}

static void flock_arm(struct worker* w) {
  lock_arm(w);
  flock(w->fd[0], LOCK_EX);
}

static void flock_body(struct worker* w) {
  must(w, blocked(w, SYS_flock, w->fd[1], LOCK_EX), 0);
  flock(w->fd[1], LOCK_UN);
}

static void flock_wake(struct worker* w) { flock(w->fd[0], LOCK_UN); }

static long ofd_lock(int fd, int command, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
  return fcntl(fd, command, &lock);
}

static void ofd_arm(struct worker* w) {
  lock_arm(w);
  if (ofd_lock(w->fd[0], F_OFD_SETLK, F_WRLCK) != 0) {
    die("OFD lock");
  }
}

static void ofd_body(struct worker* w) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  must(w, blocked(w, SYS_fcntl, w->fd[1], F_OFD_SETLKW, &lock), 0);
  ofd_lock(w->fd[1], F_OFD_SETLK, F_UNLCK);
}

static void ofd_wake(struct worker* w) { ofd_lock(w->fd[0], F_OFD_SETLK, F_UNLCK); }

static void mq_arm(struct worker* w) {
  if (w->other == 0) {
    char name[64];
    snprintf(name, sizeof name, "/sluice-test-%d", (int)getpid());
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 8};
    w->other = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attributes);
    mq_unlink(name);
    w->fd[0] = w->fd[1] = -1;
  }
}

static void mq_body(struct worker* w) {
  uint64_t found = 0;
  unsigned priority = 0;
  must_be_token(w, blocked(w, SYS_mq_timedreceive, w->other, &found, 8, &priority, 0), &found);
  must(w, priority, 3);
}

static void mq_wake(struct worker* w) {
  uint64_t t = token(w, load(&w->armed));
  mq_send(w->other, (char*)&t, 8, 3);
}

static void aio_arm(struct worker* w) {
  if (w->extra[0] == 0) {
    lock_arm(w);
    if (write(w->fd[0], "12345678", 8) != 8 || syscall(SYS_io_setup, 4, &w->extra[0]) != 0) {
      die("aio");
    }
    w->memory = malloc(8);
  }
}

static void aio_body(struct worker* w) {
  struct io_event event = {0};
  must(w, blocked(w, SYS_io_getevents, w->extra[0], 1, 1, &event, 0), 1);
  must(w, (long)event.data, (long)token(w, w->round));
  must(w, event.res, 8);
  must_hold(w, w->memory, "12345678", 8);
}

static void aio_wake(struct worker* w) {
  struct iocb request = {.aio_data = token(w, load(&w->armed)),
                         .aio_lio_opcode = IOCB_CMD_PREAD,
                         .aio_fildes = (uint32_t)w->fd[0],
                         .aio_buf = (uint64_t)w->memory,
                         .aio_nbytes = 8};
  struct iocb* list = &request;
  if (syscall(SYS_io_submit, w->extra[0], 1, &list) != 1) {
    die("io_submit");
  }
}

struct ring {
  struct io_uring_params params;
  char* rings;
  struct io_uring_sqe* entries;
};

static void uring_arm(struct worker* w) {
  if (w->memory != NULL) {
    return;
  }
  struct ring* ring = calloc(1, sizeof *ring);
  w->other = (int)syscall(SYS_io_uring_setup, 4, &ring->params);
  size_t bytes = ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
  ring->rings = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->other, IORING_OFF_SQ_RING);
  ring->entries = mmap(NULL, 4 * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED,
                       w->other, IORING_OFF_SQES);
  if (w->other < 0 || ring->rings == MAP_FAILED || (void*)ring->entries == MAP_FAILED) {
    die("io_uring");
  }
  w->memory = ring;
  w->fd[0] = w->fd[1] = -1;
}

static void uring_body(struct worker* w) {
  const struct ring* ring = w->memory;
  must(w, blocked(w, SYS_io_uring_enter, w->other, 0, 1, IORING_ENTER_GETEVENTS, 0, 0), 0);
  uint32_t* head = (uint32_t*)(ring->rings + ring->params.cq_off.head);
  uint32_t slot = *head & *(uint32_t*)(ring->rings + ring->params.cq_off.ring_mask);
  const struct io_uring_cqe* done =
      (struct io_uring_cqe*)(ring->rings + ring->params.cq_off.cqes) + slot;
  must(w, (long)done->user_data, (long)token(w, w->round));
  store(head, *head + 1);
}

static void uring_wake(struct worker* w) {
  const struct ring* ring = w->memory;
  uint32_t* tail = (uint32_t*)(ring->rings + ring->params.sq_off.tail);
  uint32_t slot = *tail & *(uint32_t*)(ring->rings + ring->params.sq_off.ring_mask);
  ring->entries[slot] =
      (struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = token(w, load(&w->armed))};
  ((uint32_t*)(ring->rings + ring->params.sq_off.array))[slot] = slot;
  store(tail, *tail + 1);
  if (syscall(SYS_io_uring_enter, w->other, 1, 0, 0, 0, 0) != 1) {
    die("io_uring_enter");
  }
}

static void fifo_arm(struct worker* w) {
  if (w->memory == NULL) {
    char path[512];
    snprintf(path, sizeof path, "%s/fifo", g_dir);
    if (mkfifo(path, 0600) != 0) {
      die("mkfifo");
    }
    w->memory = strdup(path);
    w->fd[0] = w->fd[1] = -1;
  }
}

static void fifo_body(struct worker* w) {
  long fd = blocked(w, SYS_openat, AT_FDCWD, w->memory, O_RDONLY | O_CLOEXEC);
  uint64_t found = 0;
  must_be_token(w, fd < 0 ? fd : read((int)fd, &found, 8), &found);
  close((int)fd);
}

static void fifo_wake(struct worker* w) {
  uint64_t t = token(w, load(&w->armed));
  int fd = open(w->memory, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, &t, 8) != 8) {
    die("fifo");
  }
  close(fd);
}

// Blocked in a handler on an alternate stack.
static void on_alternate(int number);
static void alternate_body(struct worker* w);
static void alternate_read(struct worker* w) {
  char here;
  const char* stack = w->memory;
  if (&here < stack || &here >= stack + 131072) {
    wrong(w, "not on the alternate stack");
  }
  read_body(w);
}

// ---- Running states: they do their turns until they are woken ----------------------------------

static void turn(struct worker* w) { __atomic_add_fetch(&w->progress, 1, __ATOMIC_ACQ_REL); }

static void spin_turn(struct worker* w, size_t width) {
  struct registers set, found;
  set_registers(&set, (uint64_t)w->tid * 7919 + w->progress);
  set.width = width;
  set.spin = 2000000;
  memset(&found, 0, sizeof found);
  guarded(&set, &found);
  compare_registers(w, &set, &found);
}

static void spin_sse_body(struct worker* w) {
  while (!was_released(w)) {
    spin_turn(w, 16);
    turn(w);
  }
}

static void spin_avx_body(struct worker* w) {
  while (!was_released(w)) {
    spin_turn(w, 32);
    turn(w);
  }
}

static void spin_avx512_body(struct worker* w) {
  while (!was_released(w)) {
    spin_turn(w, 64);
    turn(w);
  }
}

// Tiles: their state is only saved for threads that asked for it, and makes signal frames large.
static void spin_amx_body(struct worker* w) {
  uint8_t config[64] = {1};
  for (int i = 0; i < 8; i++) {
    config[16 + i * 2] = 64;
    config[48 + i] = 16;
  }
  static uint8_t in[1024], out[1024];
  fill(in, sizeof in, (uint64_t)w->tid, 5);
  while (!was_released(w)) {
    memset(out, 0, sizeof out);
    // ldtilecfg, tileloadd to tmm3, an empty loop, tilestored, tilerelease
    __asm__ volatile(
        "ldtilecfg (%0)\n\ttileloadd (%1,%3,1), %%tmm3\n\tmov $2000000, %%ecx\n"
        "1:\tdec %%ecx\n\tjnz 1b\n\ttilestored %%tmm3, (%2,%3,1)\n\ttilerelease\n"
        :
        : "r"(config), "r"(in), "r"(out), "r"((uint64_t)64)
        : "ecx", "cc", "memory");
    must_hold(w, out, in, sizeof in);
    turn(w);
  }
}

static void gs_body(struct worker* w) {
  uint64_t base = token(w, w->round) >> 20;
  syscall(SYS_arch_prctl, 0x1001, base);
  while (!was_released(w)) {
    uint64_t found = 0;
    syscall(SYS_arch_prctl, 0x1004, &found);
    if (found != base) {
      wrong(w, "gs base is %lx, was %lx", found, base);
    }
    turn(w);
  }
}

static void on_alternate(int number) {
  (void)number;
  struct worker* w = t_self;
  if (w->state->number >= 0) {
    alternate_read(w);
    return;
  }
  char here;
  const char* stack = w->memory;
  if (&here < stack || &here >= stack + 131072) {
    wrong(w, "not on the alternate stack");
  }
  while (!was_released(w)) {
    spin_turn(w, g_vector_width);
    turn(w);
  }
}

static void alternate_body(struct worker* w) {
  if (w->memory == NULL) {
    w->memory = malloc(131072);
    stack_t stack = {.ss_sp = w->memory, .ss_size = 131072};
    if (sigaltstack(&stack, NULL) != 0) {
      die("sigaltstack");
    }
    mask(SIG_UNBLOCK, SIGRTMIN + 3);
  }
  pthread_kill(pthread_self(), SIGRTMIN + 3);
}

static void calls_body(struct worker* w) {
  static char zeros[4096];
  char buffer[4096];
  const pid_t parent = getppid();
  int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  while (!was_released(w)) {
    must(w, syscall(SYS_getppid), parent);
    memset(buffer, 1, sizeof buffer);
    must(w, pread(fd, buffer, sizeof buffer, 0), sizeof buffer);
    must_hold(w, buffer, zeros, sizeof buffer);
    turn(w);
  }
  close(fd);
}

static void naps_body(struct worker* w) {
  while (!was_released(w)) {
    struct timespec nap = {.tv_nsec = 500000};
    must(w, syscall(SYS_nanosleep, &nap, NULL), 0);
    turn(w);
  }
}

static void poll_naps_body(struct worker* w) {
  while (!was_released(w)) {
    must(w, poll(NULL, 0, 1), 0);
    turn(w);
  }
}

static void futex_naps_body(struct worker* w) {
  uint32_t word = 0;
  while (!was_released(w)) {
    struct timespec nap = {.tv_nsec = 500000};
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &nap, 0, 0);
    must(w, result < 0 ? -errno : result, -ETIMEDOUT);
    turn(w);
  }
}

static void yields_body(struct worker* w) {
  while (!was_released(w)) {
    must(w, sched_yield(), 0);
    turn(w);
  }
}

// Tells a thread that was moved in time from one that was not: the clock never goes back.
static void clock_body(struct worker* w) {
  struct timespec last, now;
  clock_gettime(CLOCK_MONOTONIC, &last);
  while (!was_released(w)) {
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec < last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec)) {
      wrong(w, "the clock went back");
    }
    last = now;
    turn(w);
  }
}

// Signals to oneself: each runs its handler once.
static void signals_body(struct worker* w) {
  mask(SIG_UNBLOCK, SIGUSR2);
  while (!was_released(w)) {
    pthread_kill(pthread_self(), SIGUSR2);
    uint32_t ran = __atomic_exchange_n(&w->signals, 0, __ATOMIC_ACQ_REL);
    must(w, ran, 1);
    turn(w);
  }
}

// Two threads that pass a number back and forth through pipes.
static int g_ping[2], g_pong[2];

static void ping_arm(struct worker* w) {
  (void)w;
  if (g_ping[0] == 0 && (pipe2(g_ping, O_CLOEXEC) != 0 || pipe2(g_pong, O_CLOEXEC) != 0)) {
    die("pipe");
  }
}

static void ping_body(struct worker* w) {
  for (uint64_t i = 1; !was_released(w); i++) {
    uint64_t found = 0;
    must(w, write(g_ping[1], &i, 8), 8);
    must(w, read(g_pong[0], &found, 8), 8);
    must(w, (long)found, (long)(i * 3));
    turn(w);
  }
  uint64_t end = 0;
  must(w, write(g_ping[1], &end, 8), 8);
}

static void pong_body(struct worker* w) {
  for (;;) {
    uint64_t found = 0;
    must(w, read(g_ping[0], &found, 8), 8);
    if (found == 0) {
      break;
    }
    found *= 3;
    must(w, write(g_pong[1], &found, 8), 8);
    turn(w);
  }
}

// Restartable sequences: two threads on one CPU count without atomics. A sequence that is
// interrupted must start over, else counts are lost.
static uint64_t g_rseq_counter;
static uint64_t g_rseq_expected;

static struct rseq* own_rseq(void) {
  return (struct rseq*)((char*)__builtin_thread_pointer() + __rseq_offset);
}

static void rseq_body(struct worker* w) {
  cpu_set_t cpus, before;
  pthread_getaffinity_np(pthread_self(), sizeof before, &before);
  int first = 0;
  while (!CPU_ISSET(first, &before)) {
    first++;
  }
  CPU_ZERO(&cpus);
  CPU_SET(first, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
  struct rseq* rseq = own_rseq();
  while (!was_released(w)) {
    // A sequence that lasts long, so that what interrupts it does so in its middle.
    __asm__ volatile(
        ".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n"
        "3:\t.long 0, 0\n\t.quad 1f, 2f-1f, 4f\n\t.popsection\n"
        "5:\tlea 3b(%%rip), %%rax\n\tmov %%rax, 8(%0)\n"
        "1:\tmov %1, %%rax\n\tmov $20000, %%ecx\n"
        "6:\tdec %%ecx\n\tjnz 6b\n"
        "\tinc %%rax\n\tmov %%rax, %1\n"
        "2:\tjmp 7f\n"
        "\t.long 0x53053053\n"
        "4:\tjmp 5b\n"
        "7:\n"
        :
        : "r"(rseq), "m"(g_rseq_counter)
        : "rax", "ecx", "cc", "memory");
    rseq->rseq_cs = 0;
    __atomic_add_fetch(&g_rseq_expected, 1, __ATOMIC_ACQ_REL);
    turn(w);
  }
}

// ---- The table --------------------------------------------------------------------------------

static const struct state g_states[] = {
    {"read pipe", SYS_read, open_pipe, read_body, wake_write, false},
    {"readv pipe", SYS_readv, open_pipe, readv_body, wake_write, false},
    {"write full pipe", SYS_write, full_pipe_arm, full_pipe_body, full_pipe_wake, false},
    {"splice empty pipe", SYS_splice, splice_arm, splice_body, wake_write, false},
    {"read eventfd", SYS_read, eventfd_arm, eventfd_body, eventfd_wake, false},
    {"read timerfd", SYS_read, timerfd_arm, timerfd_body, timerfd_wake, false},
    {"read signalfd", SYS_read, signalfd_arm, signalfd_body, signalfd_wake, false},
    {"read inotify", SYS_read, inotify_arm, inotify_body, wake_write, false},
    {"open fifo", SYS_openat, fifo_arm, fifo_body, fifo_wake, false},
    {"recvfrom", SYS_recvfrom, recvfrom_arm, recvfrom_body, wake_write, false},
    {"recvfrom waitall", SYS_recvfrom, recvfrom_arm, waitall_body, wake_write, false},
    {"recvfrom timeout", SYS_recvfrom, recv_timeout_arm, recvfrom_body, wake_write, true},
    {"recvmsg udp", SYS_recvmsg, udp_arm, recvmsg_body, wake_write, false},
    {"recvmmsg udp", SYS_recvmmsg, udp_arm, recvmmsg_body, wake_write, false},
    {"sendmsg full socket", SYS_sendmsg, full_socket_arm, full_socket_body, full_socket_wake,
     false},
    {"accept", SYS_accept4, accept_arm, accept_body, accept_wake, false},
    {"connect full backlog", SYS_connect, connect_arm, connect_body, connect_wake, false},
    {"futex", SYS_futex, NULL, futex_body, futex_wake, false},
    {"futex timeout", SYS_futex, NULL, futex_timeout_body, futex_wake, false},
    {"futex bitset until", SYS_futex, NULL, futex_bitset_body, futex_wake, false},
    {"futex waitv", 449, NULL, futex_waitv_body, futex_waitv_wake, false},
    {"futex lock pi", SYS_futex, futex_pi_arm, futex_pi_body, futex_pi_wake, false},
    {"mutex", SYS_futex, mutex_arm, mutex_body, mutex_wake, false},
    {"condition", SYS_futex, locks_arm, condition_body, condition_wake, false},
    {"condition timeout", SYS_futex, locks_arm, condition_timed_body, condition_wake, false},
    {"rwlock", SYS_futex, rwlock_arm, rwlock_body, rwlock_wake, false},
    {"semaphore", SYS_futex, locks_arm, semaphore_body, semaphore_wake, false},
    {"barrier", SYS_futex, locks_arm, barrier_body, barrier_wake, false},
    {"nanosleep", SYS_nanosleep, NULL, nanosleep_body, wake_signal, false},
    {"clock_nanosleep", SYS_clock_nanosleep, NULL, clock_nanosleep_body, wake_signal, false},
    {"clock_nanosleep until", SYS_clock_nanosleep, NULL, clock_nanosleep_until_body, wake_signal,
     false},
    {"poll", SYS_poll, open_pipe, poll_body, wake_write, false},
    {"poll timeout", SYS_poll, open_pipe, poll_timeout_body, wake_write, false},
    {"ppoll", SYS_ppoll, open_pipe, ppoll_body, wake_write, false},
    {"select", SYS_select, open_pipe, select_body, wake_write, false},
    {"pselect", SYS_pselect6, open_pipe, pselect_body, wake_write, false},
    {"epoll_wait", SYS_epoll_wait, epoll_arm, epoll_wait_body, wake_write, true},
    {"epoll_wait timeout", SYS_epoll_wait, epoll_arm, epoll_timeout_body, wake_write, true},
    {"epoll_pwait2", 441, epoll_arm, epoll_pwait2_body, wake_write, true},
    {"pause", SYS_pause, NULL, pause_body, wake_signal, false},
    {"sigsuspend", SYS_rt_sigsuspend, NULL, sigsuspend_body, wake_signal, false},
    {"sigwait", SYS_rt_sigtimedwait, NULL, sigwait_body, sigwait_wake, true},
    {"sigtimedwait", SYS_rt_sigtimedwait, NULL, sigtimedwait_body, sigwait_wake, true},
    {"wait4", SYS_wait4, open_pipe, wait4_body, wake_write, false},
    {"waitid", SYS_waitid, open_pipe, waitid_body, wake_write, false},
    {"msgrcv", SYS_msgrcv, msgrcv_arm, msgrcv_body, msgrcv_wake, false},
    {"msgsnd full queue", SYS_msgsnd, msgsnd_arm, msgsnd_body, msgsnd_wake, false},
    {"semop", SYS_semop, sem_arm, semop_body, sem_wake, true},
    {"semtimedop", SYS_semtimedop, sem_arm, semtimedop_body, sem_wake, true},
    {"mq_timedreceive", SYS_mq_timedreceive, mq_arm, mq_body, mq_wake, false},
    {"flock", SYS_flock, flock_arm, flock_body, flock_wake, false},
    {"fcntl lock", SYS_fcntl, ofd_arm, ofd_body, ofd_wake, false},
    {"io_getevents", SYS_io_getevents, aio_arm, aio_body, aio_wake, true},
    {"io_uring_enter", SYS_io_uring_enter, uring_arm, uring_body, uring_wake, true},
    {"read in handler", SYS_read, open_pipe, alternate_body, wake_write, false},
    {"spin in handler", -1, NULL, alternate_body, NULL, false},
    {"spin sse x87", -1, NULL, spin_sse_body, NULL, false},
    {"spin avx", -1, NULL, spin_avx_body, NULL, false},
    {"spin avx512", -1, NULL, spin_avx512_body, NULL, false},
    {"spin amx", -1, NULL, spin_amx_body, NULL, false},
    {"gs base", -1, NULL, gs_body, NULL, false},
    {"calls", -1, NULL, calls_body, NULL, false},
    {"short naps", -1, NULL, naps_body, NULL, false},
    {"short polls", -1, NULL, poll_naps_body, NULL, false},
    {"short futex waits", -1, NULL, futex_naps_body, NULL, false},
    {"yields", -1, NULL, yields_body, NULL, false},
    {"clock", -1, NULL, clock_body, NULL, false},
    {"signals", -1, NULL, signals_body, NULL, false},
    {"ping", -1, ping_arm, ping_body, NULL, false},
    {"pong", -1, ping_arm, pong_body, NULL, false},
    {"rseq 1", -1, NULL, rseq_body, NULL, false},
    {"rseq 2", -1, NULL, rseq_body, NULL, false},
};

// ---- Main -------------------------------------------------------------------------------------

static void* run(void* argument) {
  struct worker* w = argument;
  t_self = w;
  w->tid = gettid();
  if (w->state->number < 0) {
    // Those that block must get a turn on a machine with few cores.
    setpriority(PRIO_PROCESS, (id_t)w->tid, 19);
  }
  for (w->round = 1;; w->round++) {
    while (load(&w->armed) < w->round) {
      struct timespec nap = {.tv_nsec = 1000000};
      nanosleep(&nap, NULL);
    }
    store(&w->entered, w->round);
    w->state->body(w);
    store(&w->done, w->round);
  }
  return NULL;
}

// The system call that a thread is in, or -1.
static long current_call(const struct worker* w) {
  char path[64], text[32] = "";
  snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)w->tid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  close(fd);
  return n <= 0 || text[0] < '0' || text[0] > '9' ? -1 : atol(text);
}

static bool is_settled(const struct worker* w, uint64_t progress_before) {
  if (w->state->number < 0) {
    return __atomic_load_n(&w->progress, __ATOMIC_ACQUIRE) > progress_before;
  }
  if (load(&w->entered) != load(&w->armed)) {
    return false;
  }
  long now = current_call(w);
  return now == w->state->number || now == SYS_restart_syscall;
}

// Arms all threads for the next round and waits until each is where it belongs.
static void arm_all(uint32_t round) {
  uint64_t before[kMaxWorkers];
  for (int i = 0; i < g_worker_count; i++) {
    struct worker* w = &g_workers[i];
    before[i] = __atomic_load_n(&w->progress, __ATOMIC_ACQUIRE);
    if (w->state->arm != NULL) {
      w->state->arm(w);
    }
    store(&w->armed, round);
  }
  for (int i = 0; i < g_worker_count; i++) {
    for (int tries = 0; !is_settled(&g_workers[i], before[i]); tries++) {
      if (tries > 20000) {
        die("%s does not settle", g_workers[i].state->name);
      }
      struct timespec nap = {.tv_nsec = 2000000};
      nanosleep(&nap, NULL);
    }
  }
}

static bool wait_done(const struct worker* w, uint32_t round) {
  for (int tries = 0; load(&w->done) < round; tries++) {
    if (tries > 30000) {
      return false;
    }
    struct timespec nap = {.tv_nsec = 1000000};
    nanosleep(&nap, NULL);
  }
  return true;
}

static bool check(uint32_t round, bool was_stopped) {
  uint64_t before[kMaxWorkers];
  for (int i = 0; i < g_worker_count; i++) {
    before[i] = __atomic_load_n(&g_workers[i].progress, __ATOMIC_ACQUIRE);
  }
  // Those that run must still do so.
  for (int i = 0; i < g_worker_count; i++) {
    struct worker* w = &g_workers[i];
    for (int tries = 0; w->state->number < 0 && !is_settled(w, before[i]); tries++) {
      if (tries > 20000) {
        failed("%s: makes no progress", w->state->name);
        break;
      }
      struct timespec nap = {.tv_nsec = 1000000};
      nanosleep(&nap, NULL);
    }
  }
  bool all_done = true;
  for (int i = 0; i < g_worker_count; i++) {
    struct worker* w = &g_workers[i];
    if (load(&w->done) >= round) {
      wrong(w, "ended without being woken");
    }
    store(&w->released, round);
    if (w->state->wake != NULL) {
      w->state->wake(w);
    }
  }
  for (int i = 0; i < g_worker_count; i++) {
    struct worker* w = &g_workers[i];
    if (!wait_done(w, round)) {
      failed("%s: does not wake up", w->state->name);
      all_done = false;
    }
    if (w->wrong[0] != 0) {
      failed("%s: %s", w->state->name, w->wrong);
    }
    w->wrong[0] = 0;
    uint32_t interrupted = __atomic_exchange_n(&w->interrupted, 0, __ATOMIC_ACQ_REL);
    if (interrupted != 0 && !(was_stopped && w->state->stop_ends_it)) {
      failed("%s: EINTR %u times", w->state->name, interrupted);
    }
  }
  if (all_done && g_rseq_counter != g_rseq_expected) {
    failed("rseq: counted %lu instead of %lu", g_rseq_counter, g_rseq_expected);
  }
  g_rseq_expected = g_rseq_counter;
  return all_done;
}

static bool has_amx(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) != 0 &&
         syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

static bool is_possible(const struct state* state, bool private_ipc) {
  struct io_uring_params params = {0};
  if (state->body == msgrcv_body || state->body == msgsnd_body || state->body == semop_body ||
      state->body == semtimedop_body) {
    return private_ipc;
  }
  if (state->body == spin_avx_body) {
    return __builtin_cpu_supports("avx");
  }
  if (state->body == spin_avx512_body) {
    return g_avx512;
  }
  if (state->body == spin_amx_body) {
    return has_amx();
  }
  if (state->body == rseq_body) {
    return __rseq_size != 0;
  }
  if (state->body == uring_body) {
    int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
    close(fd);
    return fd >= 0;
  }
  return true;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: threads64 DIRECTORY");
  }
  g_dir = argv[1];
  g_avx512 = __builtin_cpu_supports("avx512f");
  g_vector_width = g_avx512 ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
  // Queues and semaphores outlive a process that is killed, unless they are in a namespace of it.
  bool private_ipc = unshare(CLONE_NEWIPC) == 0;

  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR2, &action, NULL);
  action = (struct sigaction){.sa_handler = on_alternate, .sa_flags = SA_ONSTACK};
  sigaction(SIGRTMIN + 3, &action, NULL);

  for (size_t i = 0; i < sizeof g_states / sizeof *g_states; i++) {
    if (!is_possible(&g_states[i], private_ipc)) {
      absent(g_states[i].name);
      continue;
    }
    struct worker* w = &g_workers[g_worker_count++];
    w->state = &g_states[i];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    if (pthread_create(&w->thread, &attributes, run, w) != 0) {
      die("pthread_create");
    }
    pthread_attr_destroy(&attributes);
  }
  arm_all(1);
  printf("{\"ready\":true,\"pid\":%d,\"threads\":%d,\"absent\":[%s]}\n", (int)getpid(),
         g_worker_count + 1, g_absent);
  fflush(stdout);

  char line[64];
  uint32_t round = 1;
  while (next_command(line, sizeof line)) {
    bool was_stopped = strcmp(line, "check stopped") == 0;
    if (was_stopped || strcmp(line, "check") == 0) {
      const bool can_go_on = check(round, was_stopped);
      if (can_go_on) {
        arm_all(++round);
      }
      answer_check();
      if (!can_go_on) {
        break;
      }
    }
  }
  fflush(stdout);
  _exit(0);
}
