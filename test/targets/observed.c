// Stands still, with as much to be seen of it from outside as an ordinary process can have: timers,
// pending signals, children, descriptors of all kinds, threads in several waits, settings that are
// not the usual ones, and huge pages.
// Usage: observed [MEBIBYTES]: so much more of huge pages, behind a few small ones.
#include "target.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

enum { kHugeBytes = 2 << 20, kChildren = 2, kStackBytes = 256 * 1024 };

static char* g_huge;
static uint32_t g_futex;
static pthread_barrier_t g_ready;

static void block_signals(void) {
  sigset_t set;
  sigfillset(&set);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void* wait_in_futex(void* unused) {
  pthread_barrier_wait(&g_ready);
  syscall(SYS_futex, &g_futex, FUTEX_WAIT_PRIVATE, 0, NULL);
  return unused;
}

static void* wait_in_pause(void* unused) {
  pthread_kill(pthread_self(), SIGUSR1);
  pthread_barrier_wait(&g_ready);
  for (;;) {
    pause();
  }
  return unused;
}

static void* wait_in_poll(void* fd) {
  pthread_setname_np(pthread_self(), "poller");
  struct pollfd input = {*(int*)fd, POLLIN, 0};
  pthread_barrier_wait(&g_ready);
  poll(&input, 1, -1);
  return fd;
}

static void start(void* (*run)(void*), void* argument) {
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  if (pthread_create(&thread, &attributes, run, argument) != 0) {
    die("pthread_create");
  }
}

static void make_settings(void) {
  const struct sched_param none = {0};
  const struct rlimit files = {200, 300};
  prctl(PR_SET_TIMERSLACK, 77777, 0, 0, 0);
  sched_setscheduler(0, SCHED_BATCH, &none);
  setpriority(PRIO_PROCESS, 0, 3);
  setrlimit(RLIMIT_NOFILE, &files);
  const struct {
    const char* path;
    const char* value;
  } files_of_proc[] = {{"/proc/self/oom_score_adj", "123"}, {"/proc/self/coredump_filter", "0x17"}};
  for (size_t i = 0; i < 2; i++) {
    const int fd = open(files_of_proc[i].path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, files_of_proc[i].value, strlen(files_of_proc[i].value)) < 0) {
      die("%s", files_of_proc[i].path);
    }
    close(fd);
  }
}

static void make_signals(void) {
  for (int i = 0; i < 3; i++) {
    const union sigval value = {i};
    sigqueue(getpid(), SIGRTMIN + 3, value);
  }
  raise(SIGUSR2);
  kill(getpid(), SIGWINCH);
}

static void make_timers(void) {
  const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
  for (size_t i = 0; i < 3; i++) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + (int)i};
    const struct itimerspec far = {{1000, 0}, {100000 + (long)i, 0}};
    timer_t timer;
    if (timer_create(clocks[i], &event, &timer) != 0 || timer_settime(timer, 0, &far, NULL) != 0) {
      die("timer");
    }
  }
}

static int* make_descriptors(void) {
  static int pipes[2];
  int sockets[2];
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = 42}};
  const struct itimerspec far = {{0, 0}, {200000, 0}};
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGHUP);
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int count = eventfd(7, EFD_SEMAPHORE);
  const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const int self = open("/proc/self/exe", O_RDONLY);
  if (pipe2(pipes, O_NONBLOCK) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0 ||
      epoll < 0 || count < 0 || self < 0 || signalfd(-1, &set, 0) < 0 || inotify_init1(0) < 0 ||
      timerfd_settime(timer, 0, &far, NULL) != 0 ||
      epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) != 0 || lseek(self, 1234, SEEK_SET) < 0 ||
      write(sockets[0], "unread", 6) != 6) {
    die("descriptors");
  }
  return pipes;
}

static void make_children(void) {
  for (int i = 0; i < kChildren; i++) {
    const pid_t child = fork();
    if (child == 0) {
      become_quiet_child(-1);
      for (;;) {
        pause();
      }
    }
  }
}

// One huge page where the kernel gives any, locked and guarded memory, and names.
static void make_memory(void) {
  char* memory =
      mmap(NULL, 2 * kHugeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  g_huge = (char*)(((uintptr_t)memory + kHugeBytes - 1) & ~(uintptr_t)(kHugeBytes - 1));
  char* parts = mmap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* shared = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || parts == MAP_FAILED || shared == MAP_FAILED) {
    die("mmap");
  }
  madvise(memory, 2 * kHugeBytes, MADV_HUGEPAGE);
  fill(g_huge, kHugeBytes, 1, 1);
  fill(parts, 8 * kPage, 2, 1);
  fill(shared, 2 * kPage, 3, 1);
  mprotect(parts, 2 * kPage, PROT_READ);
  mprotect(parts + 2 * kPage, kPage, PROT_NONE);
  mlock(parts + 4 * kPage, 2 * kPage);
  madvise(parts + 8 * kPage, 2 * kPage, MADV_DONTFORK);
  madvise(parts + 10 * kPage, 2 * kPage, MADV_WIPEONFORK);
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, parts + 12 * kPage, kPage, "observed");
}

static void make_huge_pages(size_t bytes) {
  enum { kSmallPages = 300 };
  char* memory = mmap(NULL, bytes + 2 * kHugeBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    die("mmap");
  }
  char* huge = (char*)(((uintptr_t)memory + 2 * kHugeBytes - 1) & ~(uintptr_t)(kHugeBytes - 1));
  fill(huge - kSmallPages * kPage, kSmallPages * kPage, 4, 1);
  madvise(memory, bytes + 2 * kHugeBytes, MADV_HUGEPAGE);
  fill(huge, bytes, 5, 1);
  // Nor does the kernel collapse small ones while somebody looks.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

int main(int argc, char** argv) {
  block_signals();
  make_settings();
  make_children();
  make_memory();
  if (argc > 1) {
    make_huge_pages(strtoul(argv[1], NULL, 10) << 20);
  }
  make_timers();
  int* pipes = make_descriptors();
  pthread_barrier_init(&g_ready, NULL, 4);
  start(wait_in_futex, NULL);
  start(wait_in_pause, NULL);
  start(wait_in_poll, &pipes[0]);
  pthread_barrier_wait(&g_ready);
  make_signals();
  printf("{\"ready\":true,\"pid\":%d,\"huge\":\"0x%lx\"}\n", (int)getpid(), (unsigned long)g_huge);
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      if (first_wrong(g_huge, kHugeBytes, 1, 1) >= 0) {
        failed("memory is wrong");
      }
      answer_check();
    }
  }
  _exit(0);
}
