// Threads that each wait in a system call of another kind, for rollbacks into and out of them, and
// what the kernel keeps beside memory. Usage: waits FILE PHASE
//
//   go N         threads go on to phase N; they begin in PHASE: 1 work, 2 their call, 3 work, 4 a
//   call of another kind wake         makes happen what they wait for in phase 2 close | replace |
//   open | write | read     a descriptor: closes it, puts another in its place,
//                opens another, moves its position
//   action       handles a signal otherwise
//   leave        goes to another directory, with another umask
//   rseq | robust    the first thread registers another area
//
// "state" tells the phase of each thread; "check" what came of the calls.
#include "target.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <time.h>

enum { kHours = 3600 };

enum kind { READ, FUTEX, TIMED_FUTEX, SLEEP, POLL, TIMED_POLL, EPOLL, SUSPEND, HANDLER, KINDS };
static const char* const kNames[KINDS] = {"read",       "futex", "timed futex", "sleep",  "poll",
                                          "timed poll", "epoll", "suspend",     "handler"};

struct waiter {
  pthread_t thread;
  pid_t tid;
  volatile int phase;
  long result;  // of the call
  int pipe[2];
  int late_pipe[2];
  int epoll;
  uint32_t futex;
  uint64_t mask;  // when it was back
};
static struct waiter g_waiters[KINDS];
static volatile int g_go;
static volatile int g_handled;
static int g_file;
static __thread struct waiter* t_waiter;

static void spin_until(int phase) {
  while (g_go < phase) {
    __builtin_ia32_pause();
  }
}

static uint64_t mask_now(void) {
  uint64_t mask = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, 8);
  return mask;
}

static uint64_t bit(int signal) { return (uint64_t)1 << (signal - 1); }

static void woken(int signal) { (void)signal; }

// Of a thread of kind HANDLER, which is in it in phase 1.
static void work_in_handler(int signal) {
  (void)signal;
  g_handled = 1;
  spin_until(2);
  if ((mask_now() & bit(SIGUSR2)) == 0) {
    die("the signal of the handler is not blocked in it");
  }
}

static void other_handler(int signal) { (void)signal; }

// As most code makes calls: the number is loaded right before.
static long timed_wait(uint32_t* futex, const struct timespec* time) {
  long result;
  register const struct timespec* timeout __asm__("r10") = time;
  __asm__ volatile("movl %[number], %%eax\n\tsyscall"
                   : "=&a"(result)
                   : [number] "i"(SYS_futex), "D"(futex), "S"(FUTEX_WAIT), "d"(0), "r"(timeout)
                   : "rcx", "r11", "memory");
  return result;
}

static long call_of(enum kind kind, struct waiter* waiter) {
  const struct timespec hour = {kHours, 0};
  struct pollfd readable = {waiter->pipe[0], POLLIN, 0};
  struct epoll_event event;
  const uint64_t all_but_usr1 = ~bit(SIGUSR1);
  char byte;
  long result = -1;
  switch (kind) {
    case READ:
    case HANDLER:
      result = read(waiter->pipe[0], &byte, 1);
      break;
    case FUTEX:
      result = syscall(SYS_futex, &waiter->futex, FUTEX_WAIT, 0, NULL);
      break;
    case TIMED_FUTEX:
      return timed_wait(&waiter->futex, &hour);
    case SLEEP:
      result = nanosleep(&hour, NULL);
      break;
    case POLL:
      result = poll(&readable, 1, -1);
      break;
    case TIMED_POLL:
      result = poll(&readable, 1, kHours * 1000);
      break;
    case EPOLL:
      result = epoll_wait(waiter->epoll, &event, 1, -1);
      break;
    case SUSPEND:
      result = syscall(SYS_rt_sigsuspend, &all_but_usr1, 8);
      break;
    case KINDS:
      break;
  }
  return result < 0 ? -errno : result;
}

static long expected(enum kind kind) {
  switch (kind) {
    case SLEEP:
    case SUSPEND:
      return -EINTR;
    case FUTEX:
    case TIMED_FUTEX:
      return 0;
    default:
      return 1;
  }
}

static void* run(void* argument) {
  struct waiter* waiter = argument;
  const enum kind kind = (enum kind)(waiter - g_waiters);
  t_waiter = waiter;
  waiter->tid = gettid();
  // They work at the same time; who takes them back comes first.
  setpriority(PRIO_PROCESS, (id_t)waiter->tid, 19);
  waiter->phase = 1;
  if (kind == HANDLER) {
    pthread_kill(pthread_self(), SIGUSR2);
  } else {
    spin_until(2);
  }
  waiter->phase = 2;
  waiter->result = call_of(kind, waiter);
  waiter->mask = mask_now();
  waiter->phase = 3;
  spin_until(4);
  waiter->phase = 4;
  char byte;
  (void)!read(waiter->late_pipe[0], &byte, 1);
  return NULL;
}

static void wake_all(void) {
  for (int i = 0; i < KINDS; i++) {
    struct waiter* waiter = &g_waiters[i];
    if (i == FUTEX || i == TIMED_FUTEX) {
      // Its value stays: it would not wait again else.
      while (syscall(SYS_futex, &waiter->futex, FUTEX_WAKE, 1) == 0) {
        usleep(1000);
      }
    } else if (i == SLEEP || i == SUSPEND) {
      pthread_kill(waiter->thread, SIGUSR1);
    } else {
      (void)!write(waiter->pipe[1], "x", 1);
    }
  }
}

static void check(void) {
  for (int i = 0; i < KINDS; i++) {
    struct waiter* waiter = &g_waiters[i];
    if (waiter->phase < 3) {
      failed("%s waits still", kNames[i]);
      continue;
    }
    if (waiter->result != expected((enum kind)i)) {
      failed("%s returned %ld", kNames[i], waiter->result);
    }
    if (waiter->mask != 0) {
      failed("%s is left with signal mask %lx", kNames[i], waiter->mask);
    }
    // What was not read in the call; no rollback takes that back.
    char bytes[16];
    if ((i == POLL || i == TIMED_POLL || i == EPOLL) && read(waiter->pipe[0], bytes, 16) != 1) {
      failed("%s was woken in vain", kNames[i]);
    }
  }
  answer_check();
}

static void register_rseq(void) {
#ifdef SYS_rseq
  static struct rseq other __attribute__((aligned(32)));
  struct rseq* old = (struct rseq*)((char*)__builtin_thread_pointer() + __rseq_offset);
  // glibc registers at least the 32 bytes that the structure had at first.
  const long bytes = __rseq_size < 32 ? 32 : (long)__rseq_size;
  if (syscall(SYS_rseq, old, bytes, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) != 0 ||
      syscall(SYS_rseq, &other, 32, 0, RSEQ_SIG) != 0) {
    die("rseq");
  }
#endif
}

static void register_robust_list(void) {
  static struct {
    void* next;
    long offset;
    void* pending;
  } head = {&head, 0, NULL};
  if (syscall(SYS_set_robust_list, &head, sizeof head) != 0) {
    die("set_robust_list");
  }
}

static void obey(const char* line) {
  if (strncmp(line, "go ", 3) == 0) {
    g_go = atoi(line + 3);
  } else if (strcmp(line, "wake") == 0) {
    wake_all();
  } else if (strcmp(line, "close") == 0) {
    close(g_file);
  } else if (strcmp(line, "replace") == 0) {
    int other = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup3(other, g_file, O_CLOEXEC);
    close(other);
  } else if (strcmp(line, "open") == 0) {
    (void)!open("/dev/zero", O_RDONLY | O_CLOEXEC);
  } else if (strcmp(line, "write") == 0) {
    (void)!write(g_file, "later", 5);
    fcntl(g_file, F_SETFL, O_APPEND);
  } else if (strcmp(line, "action") == 0) {
    struct sigaction other = {.sa_handler = other_handler, .sa_flags = SA_RESTART | SA_NODEFER};
    sigaddset(&other.sa_mask, SIGHUP);
    sigaction(SIGUSR1, &other, NULL);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGALRM, other_handler);
  } else if (strcmp(line, "leave") == 0) {
    (void)!chdir("/");
    umask(0123);
  } else if (strcmp(line, "rseq") == 0) {
    register_rseq();
  } else if (strcmp(line, "robust") == 0) {
    register_robust_list();
  }
}

static bool handled_by(int signal, void (*handler)(int)) {
  struct sigaction action;
  sigaction(signal, NULL, &action);
  return action.sa_handler == handler &&
         (handler == SIG_IGN || (action.sa_flags & (SA_RESTART | SA_NODEFER)) == 0) &&
         sigismember(&action.sa_mask, SIGHUP) == 0;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    return 1;
  }
  g_go = atoi(argv[2]);
  g_file = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (g_file < 0 || write(g_file, "then", 4) != 4) {
    die("open %s", argv[1]);
  }
  struct sigaction action = {.sa_handler = woken};
  sigaction(SIGUSR1, &action, NULL);
  action.sa_handler = work_in_handler;
  sigaction(SIGUSR2, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  static char input[4096];
  static char output[4096];
  setvbuf(stdin, input, _IOFBF, sizeof input);
  setvbuf(stdout, output, _IOFBF, sizeof output);
  for (int i = 0; i < KINDS; i++) {
    struct waiter* waiter = &g_waiters[i];
    waiter->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (pipe2(waiter->pipe, O_CLOEXEC) != 0 || pipe2(waiter->late_pipe, O_CLOEXEC) != 0 ||
        epoll_ctl(waiter->epoll, EPOLL_CTL_ADD, waiter->pipe[0], &event) != 0 ||
        pthread_create(&waiter->thread, NULL, run, waiter) != 0) {
      die("a thread");
    }
  }
  while (!g_handled) {
    usleep(1000);
  }
  printf("{\"pid\":%d,\"file\":%d,\"tids\":[", getpid(), g_file);
  for (int i = 0; i < KINDS; i++) {
    while (g_waiters[i].phase == 0) {
      usleep(1000);
    }
    printf("%s%d", i > 0 ? "," : "", g_waiters[i].tid);
  }
  printf("]}\n");
  fflush(stdout);
  char line[64];
  while (next_command(line, sizeof line)) {
    if (strcmp(line, "check") == 0) {
      check();
      continue;
    }
    if (strcmp(line, "actions") == 0) {
      const bool same = handled_by(SIGUSR1, woken) && handled_by(SIGUSR2, work_in_handler) &&
                        handled_by(SIGPIPE, SIG_IGN) && handled_by(SIGALRM, SIG_DFL);
      printf("{\"ok\":%s}\n", same ? "true" : "false");
    } else if (strcmp(line, "state") == 0) {
      printf("{\"ok\":true,\"phases\":[");
      for (int i = 0; i < KINDS; i++) {
        printf("%s%d", i > 0 ? "," : "", g_waiters[i].phase);
      }
      printf("]}\n");
    } else {
      obey(line);
      printf("{\"ok\":true}\n");
    }
    fflush(stdout);
  }
  return 0;
}
