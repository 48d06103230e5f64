// A process in conditions that make it awkward to dump. Usage: awkward CONDITION[=VALUE]...
//
//   no-new-privs | undumpable | user=UID
//   nofile=N | nproc=N | as | memlock | stack     a limit, which is reached
//   vmas=N       so many mappings; without N as many as the kernel grants
//   secret | huge | locked                        memory of that kind
//   uffd=missing | uffd=wp                        a userfaultfd of its own over some of its memory
//   signals      every signal has a handler
//   sharer       a process that is no thread of it runs in its memory
//   unshare=NAMES     other namespaces, like user,pid,mnt,net,ipc,uts,cgroup,time
//   strict       it may only read, write and exit
//   filter=kill | filter=notify     it may besides poll; what else it calls kills it, or waits for
//   a
//                                   supervisor that is not there
//
// They are entered in this order. "check" also says whether each still holds, and that no child is
// there; "write" changes half of the memory and is counted, "turn" tells how often.
#include "filter.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
enum { kSysSecret = 447, kPages = 256, kExtraPages = 16, kHugeBytes = 2 << 20, kSignals = 65 };

static uint8_t* g_memory;
static uint64_t g_turn;
static uint8_t* g_vmas;
static size_t g_vma_pages;
static pid_t g_pid;

static void* map(size_t bytes, int flags, int fd) {
  const int anonymous = fd < 0 ? MAP_ANONYMOUS : 0;
  void* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | anonymous, fd, 0);
  if (p == MAP_FAILED) {
    die("mmap");
  }
  return p;
}

static void limit(int resource, rlim_t value) {
  const struct rlimit wanted = {value, value};
  if (setrlimit((__rlimit_resource_t)resource, &wanted) != 0) {
    die("setrlimit");
  }
}

// In KiB, of /proc/self/status.
static long status_kib(const char* field) {
  char text[4096];
  const int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  const ssize_t bytes = read(fd, text, sizeof text - 1);
  close(fd);
  text[bytes > 0 ? bytes : 0] = 0;
  const char* at = strstr(text, field);
  if (at == NULL) {
    die("no %s in its status", field);
  }
  return atol(at + strlen(field));
}

static void check_pattern(const char* what, const void* at, size_t bytes, uint64_t seed) {
  const long wrong = first_wrong(at, bytes, (uint64_t)at, seed);
  if (wrong >= 0) {
    failed("%s: byte %ld", what, wrong);
  }
}

// The first half is as in the beginning, the second as the last turn wrote it.
static void write_turn(void) {
  g_turn++;
  fill(g_memory + kPages / 2 * kPage, kPages / 2 * kPage, g_turn, g_turn);
}

static void check_memory(void) {
  check_pattern("memory", g_memory, kPages / 2 * kPage, 1);
  if (first_wrong(g_memory + kPages / 2 * kPage, kPages / 2 * kPage, g_turn, g_turn) >= 0) {
    failed("memory is not of turn %lu", (unsigned long)g_turn);
  }
}

static void enter_no_new_privs(const char* unused) {
  (void)unused;
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void enter_undumpable(const char* unused) {
  (void)unused;
  prctl(PR_SET_DUMPABLE, 0);
}

static void check_undumpable(void) {
  if (prctl(PR_GET_DUMPABLE) != 0) {
    failed("it has become dumpable");
  }
}

static void enter_user(const char* uid) {
  const uid_t id = (uid_t)atoi(uid);
  if (setgid(id) != 0 || setuid(id) != 0) {
    die("setuid");
  }
}

static int fill_descriptors(void) {
  int opened = 0;
  while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
    opened++;
  }
  return errno == EMFILE ? opened : -1;
}

static void enter_nofile(const char* count) {
  limit(RLIMIT_NOFILE, strtoul(count, NULL, 10));
  if (fill_descriptors() < 0) {
    die("/dev/null");
  }
}

static void check_nofile(void) {
  if (fill_descriptors() != 0) {
    failed("a descriptor was free");
  }
  close(3);
  if (fill_descriptors() != 1) {
    failed("not one descriptor was free after one was closed");
  }
}

static void enter_nproc(const char* count) { limit(RLIMIT_NPROC, strtoul(count, NULL, 10)); }

static void enter_as(const char* unused) {
  (void)unused;
  limit(RLIMIT_AS, (rlim_t)status_kib("VmSize:") * 1024);
}

static void check_no_mapping(void) {
  if (mmap(NULL, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) {
    failed("a page could be mapped");
  }
}

static void enter_memlock(const char* unused) {
  (void)unused;
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
    die("mlockall");
  }
  limit(RLIMIT_MEMLOCK, (rlim_t)status_kib("VmLck:") * 1024);
}

static uintptr_t g_stack_end;  // 0: it waits anywhere

static void enter_stack(const char* unused) {
  (void)unused;
  char line[256];
  FILE* maps = fopen("/proc/self/maps", "re");
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    if (strstr(line, "[stack]") != NULL) {
      g_stack_end = strtoul(strchr(line, '-') + 1, NULL, 16);
    }
  }
  if (maps == NULL || g_stack_end == 0) {
    die("/proc/self/maps");
  }
  fclose(maps);
  poll(NULL, 0, 0);  // bound here, where there is room for that
}

// Waits with hardly any room left on the stack, which may not grow.
__attribute__((noinline)) static void wait_deep(void) {
  enum { kDepth = 32, kRoom = 1024 };
  static uintptr_t start;
  struct pollfd input = {0, POLLIN, 0};
  const uintptr_t here = (uintptr_t)__builtin_frame_address(0);
  if (start == 0) {
    start = (here & ~(uintptr_t)(kPage - 1)) - kDepth * kPage;
    limit(RLIMIT_STACK, g_stack_end - start);
  }
  volatile uint8_t* bottom = __builtin_alloca(here - start - kRoom);
  *bottom = 1;
  while (poll(&input, 1, -1) < 0) {
  }
}

static void enter_vmas(const char* count) {
  // Neighbours that differ cannot be joined.
  const size_t wanted = count == NULL ? 1 << 20 : strtoul(count, NULL, 10);
  uint8_t* all = mmap(NULL, wanted * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) {
    die("mmap");
  }
  madvise(all, wanted * kPage, MADV_NOHUGEPAGE);
  size_t made = 0;
  for (; made + 2 <= wanted; made += 2) {
    if (made % 32 == 0) {
      fill(all + made * kPage, kPage, (uint64_t)all + made * kPage, 1);
    }
    if (mprotect(all + (made + 1) * kPage, kPage, PROT_READ) != 0) {
      if (count != NULL) {
        die("%s mappings", count);
      }
      break;
    }
  }
  // Where a mapping may not be split any more, there is still room for a new one.
  for (int i = 0; count == NULL; i++) {
    const int protection = i % 2 == 0 ? PROT_NONE : PROT_READ;
    if (mmap(NULL, kPage, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
      break;
    }
  }
  g_vmas = all;
  g_vma_pages = made;
}

static void check_vmas(void) {
  for (size_t i = 0; i < g_vma_pages; i += 32) {
    check_pattern("one of many mappings", g_vmas + i * kPage, kPage, 1);
  }
}

static uint8_t* g_special;
static size_t g_special_bytes;

static void fill_special(void* memory, size_t bytes) {
  g_special = memory;
  g_special_bytes = bytes;
  fill(memory, bytes, (uint64_t)memory, 1);
}

static void check_special(void) { check_pattern("special memory", g_special, g_special_bytes, 1); }

static void enter_secret(const char* unused) {
  (void)unused;
  const int fd = (int)syscall(kSysSecret, O_CLOEXEC);
  if (fd < 0) {
    printf("{\"pid\":%d,\"absent\":\"memfd_secret\"}\n", (int)getpid());
    exit(0);
  }
  if (ftruncate(fd, kExtraPages * kPage) != 0) {
    die("memfd_secret");
  }
  fill_special(map(kExtraPages * kPage, MAP_SHARED, fd), kExtraPages * kPage);
}

static void enter_huge(const char* unused) {
  (void)unused;
  fill_special(map(2 * kHugeBytes, MAP_PRIVATE | MAP_HUGETLB, -1), kHugeBytes);
}

static void enter_locked(const char* unused) {
  (void)unused;
  fill_special(map(kExtraPages * kPage, MAP_PRIVATE, -1), kExtraPages * kPage);
  if (mlock(g_special, g_special_bytes) != 0) {
    die("mlock");
  }
}

static int g_uffd;
static bool g_protects;
static atomic_int g_faults;

// Fills pages that are missing with their pattern, and lets go of those that are protected.
static void* serve_faults(void* unused) {
  (void)unused;
  static uint8_t page[kPage] __attribute__((aligned(kPage)));
  struct uffd_msg message;
  while (read(g_uffd, &message, sizeof message) == sizeof message) {
    const uint64_t at = message.arg.pagefault.address & ~(uint64_t)(kPage - 1);
    atomic_fetch_add(&g_faults, 1);
    if (g_protects) {
      struct uffdio_writeprotect none = {.range = {at, kPage}};
      ioctl(g_uffd, UFFDIO_WRITEPROTECT, &none);
    } else {
      fill(page, kPage, at, 1);
      struct uffdio_copy copy = {.dst = at, .src = (uint64_t)page, .len = kPage};
      ioctl(g_uffd, UFFDIO_COPY, &copy);
    }
  }
  return NULL;
}

static void enter_uffd(const char* mode) {
  pthread_t thread;
  struct uffdio_api api = {.api = UFFD_API};
  g_protects = strcmp(mode, "wp") == 0;
  g_uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  g_special_bytes = kExtraPages * kPage;
  g_special = map(g_special_bytes, MAP_PRIVATE, -1);
  struct uffdio_register range = {
      .range = {(uint64_t)g_special, g_special_bytes},
      .mode = g_protects ? UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING};
  if (g_uffd < 0 || ioctl(g_uffd, UFFDIO_API, &api) != 0 ||
      ioctl(g_uffd, UFFDIO_REGISTER, &range) != 0) {
    printf("{\"pid\":%d,\"absent\":\"userfaultfd\"}\n", (int)getpid());
    exit(0);
  }
  if (g_protects) {
    fill_special(g_special, g_special_bytes);
    struct uffdio_writeprotect all = {.range = range.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    if (ioctl(g_uffd, UFFDIO_WRITEPROTECT, &all) != 0) {
      die("UFFDIO_WRITEPROTECT");
    }
  }
  if (pthread_create(&thread, NULL, serve_faults, NULL) != 0) {
    die("pthread_create");
  }
}

// Each check uses one more page, which must be the first use of it.
static void check_uffd(void) {
  static int used;
  if (atomic_load(&g_faults) != used) {
    failed("%d pages were used behind its back", atomic_load(&g_faults) - used);
  }
  if (used == kExtraPages) {
    return;
  }
  volatile uint64_t* word = (uint64_t*)(g_special + used * kPage);
  if (*word != word_at((uint64_t)word, 1)) {
    failed("page %d is wrong", used);
  }
  *word = *word;
  used++;
  if (atomic_load(&g_faults) != used) {
    failed("page %d was not as its userfaultfd left it", used - 1);
  }
}

static atomic_int g_signals[kSignals];

static void count_signal(int signal) { atomic_fetch_add(&g_signals[signal], 1); }

static void enter_signals(const char* unused) {
  (void)unused;
  for (int i = 1; i < kSignals; i++) {
    const struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    sigaction(i, &action, NULL);
  }
}

// Those that tests send are only SIGRTMAX; job control may have told of a stop that one made.
static void check_signals(void) {
  for (int i = 1; i < SIGRTMAX; i++) {
    if (i != SIGCONT && atomic_load(&g_signals[i]) != 0) {
      failed("signal %d came %d times", i, atomic_load(&g_signals[i]));
    }
  }
}

static void put(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
    die("%s", path);
  }
  close(fd);
}

// The parent waits outside for the one that is in the new namespaces.
static void go_on_in_child(void) {
  int pid_pipe[2];
  if (pipe2(pid_pipe, O_CLOEXEC) != 0) {
    die("pipe");
  }
  const pid_t child = fork();
  if (child < 0) {
    die("fork");
  }
  if (child > 0) {
    int status;
    (void)!write(pid_pipe[1], &child, sizeof child);
    become_quiet_child(-1);
    while (waitpid(child, &status, 0) != child) {
    }
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (read(pid_pipe[0], &g_pid, sizeof g_pid) != sizeof g_pid) {
    die("its pid");
  }
  close(pid_pipe[0]);
  close(pid_pipe[1]);
}

// A file that nobody sees from outside, mapped both ways.
static void map_hidden_file(void) {
  char path[] = "/mnt/hidden";
  if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("none", "/mnt", "tmpfs", 0, NULL) != 0) {
    die("mount");
  }
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, kExtraPages * kPage) != 0) {
    die("%s", path);
  }
  fill_special(map(kExtraPages * kPage, MAP_SHARED, fd), kExtraPages * kPage);
  uint8_t* own = map(kExtraPages * kPage, MAP_PRIVATE, fd);
  own[0] = 1;
  own[kPage] = own[kPage];
  (void)*(volatile uint8_t*)(own + 2 * kPage);
  close(fd);
}

static void enter_unshare(const char* names) {
  static const struct {
    const char* name;
    int flag;
  } kinds[] = {{"user", CLONE_NEWUSER}, {"pid", CLONE_NEWPID},      {"mnt", CLONE_NEWNS},
               {"net", CLONE_NEWNET},   {"ipc", CLONE_NEWIPC},      {"uts", CLONE_NEWUTS},
               {"time", CLONE_NEWTIME}, {"cgroup", CLONE_NEWCGROUP}};
  int flags = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    flags |= strstr(names, kinds[i].name) != NULL ? kinds[i].flag : 0;
  }
  char ids[64];
  snprintf(ids, sizeof ids, "0 %d 1", (int)getuid());
  if (unshare(flags) != 0) {
    printf("{\"pid\":%d,\"absent\":\"namespaces of this kind\"}\n", (int)getpid());
    exit(0);
  }
  if ((flags & CLONE_NEWUSER) != 0) {
    put("/proc/self/setgroups", "deny");
    put("/proc/self/uid_map", ids);
    put("/proc/self/gid_map", ids);
  }
  if ((flags & CLONE_NEWTIME) != 0) {
    put("/proc/self/timens_offsets", "monotonic 1000000 0\n");
  }
  if ((flags & (CLONE_NEWPID | CLONE_NEWTIME)) != 0) {
    go_on_in_child();
  }
  if ((flags & CLONE_NEWNS) != 0) {
    map_hidden_file();
  }
}

static int run_in_same_memory(void* unused) {
  (void)unused;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pause();
}

// Of waits for its children.
static int g_wait_flags = __WALL;

// No wait of the target sees it.
static void enter_sharer(const char* unused) {
  (void)unused;
  char* const stack = map(65536, MAP_PRIVATE, -1);
  if (clone(run_in_same_memory, stack + 65536, CLONE_VM, NULL) < 0) {
    die("clone");
  }
  g_wait_flags = 0;
}

static bool g_filtered;

static void enter_strict(const char* unused) {
  (void)unused;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) {
    die("seccomp");
  }
  g_filtered = true;
}

static void enter_filter(const char* action) {
  static const uint32_t allowed[] = {SYS_read,          SYS_write,          SYS_poll,
                                     SYS_exit,          SYS_exit_group,     SYS_rt_sigreturn,
                                     SYS_clock_gettime, SYS_restart_syscall};
  enum { kCount = sizeof allowed / sizeof *allowed };
  const bool notifies = strcmp(action, "notify") == 0;
  filter_calls(allowed, kCount, SECCOMP_RET_ALLOW,
               notifies ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_KILL_PROCESS,
               notifies ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0);
  g_filtered = true;
}

struct condition {
  const char* name;
  void (*enter)(const char* value);
  void (*check)(void);
  bool entered;
};
// The limit on mappings and those on memory come last: what comes after them could not be set up.
static struct condition g_conditions[] = {
    {"unshare", enter_unshare, NULL, false},
    {"no-new-privs", enter_no_new_privs, NULL, false},
    {"user", enter_user, NULL, false},
    {"undumpable", enter_undumpable, check_undumpable, false},
    {"sharer", enter_sharer, NULL, false},
    {"signals", enter_signals, check_signals, false},
    {"secret", enter_secret, check_special, false},
    {"huge", enter_huge, check_special, false},
    {"locked", enter_locked, check_special, false},
    {"uffd", enter_uffd, check_uffd, false},
    {"stack", enter_stack, NULL, false},
    {"nproc", enter_nproc, NULL, false},
    {"vmas", enter_vmas, check_vmas, false},
    {"memlock", enter_memlock, check_no_mapping, false},
    {"as", enter_as, check_no_mapping, false},
    {"nofile", enter_nofile, check_nofile, false},
    {"filter", enter_filter, NULL, false},
    {"strict", enter_strict, NULL, false},
};
enum { kConditions = sizeof g_conditions / sizeof *g_conditions };

static void enter(struct condition* condition, int count, char** words) {
  const size_t length = strlen(condition->name);
  for (int i = 0; i < count; i++) {
    if (strncmp(words[i], condition->name, length) == 0 &&
        (words[i][length] == 0 || words[i][length] == '=')) {
      condition->enter(words[i][length] == 0 ? NULL : words[i] + length + 1);
      condition->entered = true;
    }
  }
}

static void check(void) {
  check_memory();
  for (int i = 0; i < kConditions; i++) {
    if (g_conditions[i].entered && g_conditions[i].check != NULL) {
      g_conditions[i].check();
    }
  }
  if (!g_filtered && (waitpid(-1, NULL, g_wait_flags | WNOHANG) != -1 || errno != ECHILD)) {
    failed("it has a child");
  }
  answer_check();
}

int main(int argc, char** argv) {
  static char output[32 << 10];
  // A line that is in a buffer already could not be waited for.
  setvbuf(stdin, NULL, _IONBF, 0);
  setvbuf(stdout, output, _IOFBF, sizeof output);
  g_memory = map(kPages * kPage, MAP_PRIVATE, -1);
  madvise(g_memory, kPages * kPage, MADV_NOHUGEPAGE);
  fill(g_memory, kPages * kPage, (uint64_t)g_memory, 1);
  write_turn();
  g_pid = getpid();
  for (int i = 0; i < kConditions; i++) {
    enter(&g_conditions[i], argc - 1, argv + 1);
  }
  printf("{\"ready\":true,\"pid\":%d,\"vmas\":\"0x%lx\",\"vmaPages\":%zu}\n", (int)g_pid,
         (unsigned long)g_vmas, g_vma_pages);
  fflush(stdout);
  for (char line[64];;) {
    if (g_stack_end != 0) {
      wait_deep();
    }
    if (!next_command(line, sizeof line)) {
      // The strictest filter lets it do no more, and there is one thread then.
      syscall(g_filtered ? SYS_exit : SYS_exit_group, 0);
    }
    if (strcmp(line, "check") == 0) {
      check();
    } else if (strcmp(line, "write") == 0) {
      write_turn();
      printf("{\"ok\":true}\n");
    } else if (strcmp(line, "turn") == 0) {
      printf("{\"ok\":true,\"turn\":%lu,\"signals\":%d}\n", (unsigned long)g_turn,
             atomic_load(&g_signals[SIGRTMAX]));
    }
    fflush(stdout);
  }
}
