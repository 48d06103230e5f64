// Several threads with registers, signal masks and names of their own, and a process with limits,
// handlers and ids of its own. It prints what it knows of all that; "check" changes nothing.
// Usage: state FILE
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/stat.h>

enum { kThreads = 4, kVectorBytes = 32 };

struct thread {
  pthread_t thread;
  unsigned char vector[kVectorBytes];  // in ymm0, or as much of it as there is
  long double x87;
  uint32_t mxcsr;
  int index;
  pid_t tid;
  uint64_t mask;
  uint64_t robust_list;
  uint64_t rseq;
  _Atomic int ready;
};

static struct thread g_threads[kThreads];
static int g_vector_bytes = 16;
static volatile sig_atomic_t g_caught;

static void on_signal(int signal) { g_caught = signal; }
static void on_info(int signal, siginfo_t* info, void* context) {
  (void)info;
  (void)context;
  g_caught = signal;
}

static uint64_t blocked(void) {
  uint64_t mask = 0;
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
  return mask;
}

static void note(struct thread* self) {
  size_t bytes = 0;
  self->tid = gettid();
  self->mask = blocked();
  syscall(SYS_get_robust_list, 0, &self->robust_list, &bytes);
  self->rseq = __rseq_size == 0 ? 0 : (uint64_t)__builtin_thread_pointer() + __rseq_offset;
}

// Waits for ever with known values in its registers.
__attribute__((noreturn)) static void wait_forever(struct thread* self) {
  __asm__ volatile("fldt %0\n ldmxcsr %1\n" ::"m"(self->x87), "m"(self->mxcsr));
  if (g_vector_bytes == 32) {
    __asm__ volatile("vmovdqu %0, %%ymm0\n" ::"m"(self->vector));
  } else {
    __asm__ volatile("movdqu %0, %%xmm0\n" ::"m"(self->vector));
  }
  __asm__ volatile("movl $1, %0\n 1: movl %1, %%eax\n syscall\n jmp 1b\n"
                   : "=m"(self->ready)
                   : "i"(SYS_pause));
  __builtin_unreachable();
}

static void* run(void* argument) {
  struct thread* self = argument;
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigaddset(&mask, SIGRTMIN + self->index);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  char name[16];
  snprintf(name, sizeof name, "thread \\%d", self->index);
  prctl(PR_SET_NAME, name);
  note(self);
  wait_forever(self);
}

static void start(int index) {
  struct thread* thread = &g_threads[index];
  thread->index = index;
  thread->x87 = 1.5L + index;
  thread->mxcsr = 0x1f80 | (uint32_t)index << 13;  // a rounding mode
  for (int i = 0; i < kVectorBytes; i++) {
    thread->vector[i] = (unsigned char)(16 * index + i);
  }
  if (pthread_create(&thread->thread, NULL, run, thread) != 0) {
    die("pthread_create");
  }
  while (!thread->ready) {
    sched_yield();
  }
}

// Of all signals that have a handler: the C library has some of its own.
static void print_actions(void) {
  const char* comma = "";
  for (int signal = 1; signal <= 64; signal++) {
    struct {
      uint64_t handler, flags, restorer, mask;
    } action;
    if (syscall(SYS_rt_sigaction, signal, NULL, &action, sizeof action.mask) != 0) {
      die("rt_sigaction");
    }
    if (action.handler > 1) {
      printf("%s{\"signal\":%d,\"handler\":\"%lu\",\"flags\":\"%lu\",", comma, signal,
             action.handler, action.flags);
      printf("\"restorer\":\"%lu\",\"mask\":\"%lu\"}", action.restorer, action.mask);
      comma = ",";
    }
  }
}

static void print_thread(const struct thread* thread, const char* end) {
  printf("{\"tid\":%d,\"mask\":\"%lu\",\"robustList\":\"%lu\",\"rseq\":\"%lu\",\"mxcsr\":%u,",
         thread->tid, thread->mask, thread->robust_list, thread->rseq, thread->mxcsr);
  unsigned char x87[16] = {0};
  memcpy(x87, &thread->x87, 10);
  printf("\"x87\":\"");
  for (int i = 0; i < 10; i++) {
    printf("%02x", x87[i]);
  }
  printf("\",\"vector\":\"");
  for (int i = 0; i < g_vector_bytes; i++) {
    printf("%02x", thread->vector[i]);
  }
  printf("\"}%s", end);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    die("usage: state FILE");
  }
  g_vector_bytes = __builtin_cpu_supports("avx") ? 32 : 16;
  umask(027);
  const struct rlimit limit = {100, 200};
  const struct rlimit no_core = {0, 0};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || setrlimit(RLIMIT_CORE, &no_core) != 0) {
    die("setrlimit");
  }
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  const int fd = open(argv[1], O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, "twelve bytes", 12) != 12) {
    die("%s", argv[1]);
  }
  struct sigaction plain = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaddset(&plain.sa_mask, SIGTERM);
  sigaction(SIGUSR2, &plain, NULL);
  struct sigaction info = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGRTMAX, &info, NULL);
  signal(SIGHUP, SIG_IGN);
  for (int i = 0; i < kThreads; i++) {
    start(i);
  }
  // One signal waits for the last thread, and one for the process.
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGUSR1);
  sigaddset(&both, SIGALRM);
  sigprocmask(SIG_BLOCK, &both, NULL);
  struct thread first = {0};
  note(&first);
  pthread_kill(g_threads[kThreads - 1].thread, SIGUSR1);
  kill(getpid(), SIGUSR1);

  const uint64_t end = (uint64_t)sbrk(0);
  printf("{\"ready\":true,\"pid\":%d,\"break\":\"%lu\",\"descriptor\":%d,\"parent\":%d,",
         (int)getpid(), end, fd, (int)getppid());
  printf("\"group\":%d,\"session\":%d,\"nice\":%d,\"code\":\"%lu\",\"arguments\":\"%lu\",",
         getpgrp(), getsid(0), getpriority(PRIO_PROCESS, 0), (uint64_t)&main, (uint64_t)argv[0]);
  printf("\"actions\":[");
  print_actions();
  printf("],\"main\":");
  print_thread(&first, ",\"threads\":[");
  for (int i = 0; i < kThreads; i++) {
    print_thread(&g_threads[i], i + 1 < kThreads ? "," : "]}\n");
  }
  fflush(stdout);

  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      answer_check();
    }
  }
  _exit(0);
}
