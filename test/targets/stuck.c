// A thread of it waits for a file system that does not answer (FUSE). Usage: stuck DIRECTORY
//
// The file system is served by a child, mounted at DIRECTORY until the target ends. It answers the
// one read of its one file when it is told to by "answer". Until then the thread can be interrupted
// by nothing but its death. "check" fails if the read ended early, or not with what the file holds.
#include "target.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { kFile = 2, kMostBytes = 1 << 17 };
static const char kContents[] = "what the file holds";

static int g_answer[2];
static atomic_int g_result;  // of the read; 0 until it has ended
static atomic_bool g_answered;
static char g_read[64];

static void reply(int fuse, uint64_t unique, int error, const void* data, size_t bytes) {
  char buffer[4096];
  struct fuse_out_header header = {(uint32_t)(sizeof header + bytes), error, unique};
  memcpy(buffer, &header, sizeof header);
  memcpy(buffer + sizeof header, data, bytes);
  (void)!write(fuse, buffer, header.len);
}

static struct fuse_attr attributes_of(uint64_t node) {
  return (struct fuse_attr){.ino = node,
                            .size = sizeof kContents,
                            .mode = node == kFile ? S_IFREG | 0444 : S_IFDIR | 0555,
                            .nlink = 1};
}

static void serve(int fuse) {
  static char request[kMostBytes];
  char byte;
  for (;;) {
    if (read(fuse, request, sizeof request) <= 0) {
      _exit(0);
    }
    const struct fuse_in_header* in = (struct fuse_in_header*)request;
    if (in->opcode == FUSE_INIT) {
      struct fuse_init_out out = {
          .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_LOOKUP) {
      struct fuse_entry_out out = {.nodeid = kFile, .attr = attributes_of(kFile)};
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_GETATTR) {
      struct fuse_attr_out out = {.attr = attributes_of(in->nodeid)};
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_OPEN) {
      struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO};
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_READ) {
      if (read(g_answer[0], &byte, 1) != 1) {
        _exit(0);
      }
      reply(fuse, in->unique, 0, kContents, sizeof kContents);
    } else if (in->opcode != FUSE_INTERRUPT && in->opcode != FUSE_FORGET &&
               in->opcode != FUSE_BATCH_FORGET) {
      reply(fuse, in->unique, in->opcode == FUSE_RELEASE ? 0 : -ENOSYS, "", 0);
    }
  }
}

static void* read_file(void* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t bytes = read(fd, g_read, sizeof g_read);
  atomic_store(&g_result, bytes < 0 ? -errno : (int)bytes);
  for (;;) {
    pause();
  }
  return NULL;
}

static void check(void) {
  const int result = atomic_load(&g_result);
  if (atomic_load(&g_answered)) {
    while (atomic_load(&g_result) == 0) {
      usleep(1000);
    }
    if (atomic_load(&g_result) != sizeof kContents || strcmp(g_read, kContents) != 0) {
      failed("the read gave %d", atomic_load(&g_result));
    }
  } else if (result != 0) {
    failed("the read ended with %d", result);
  }
  answer_check();
}

int main(int argc, char** argv) {
  if (argc < 2) {
    die("usage: stuck DIRECTORY");
  }
  char options[128], path[512];
  const int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
  if (fuse < 0 || mount("sluice-test", argv[1], "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
    printf("{\"pid\":%d,\"absent\":\"FUSE\"}\n", (int)getpid());
    return 0;
  }
  if (pipe2(g_answer, O_CLOEXEC) != 0) {
    die("pipe");
  }
  if (fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(0);
    close(1);
    close(2);
    close(g_answer[1]);
    serve(fuse);
  }
  close(fuse);
  snprintf(path, sizeof path, "%s/file", argv[1]);
  pthread_t thread;
  if (pthread_create(&thread, NULL, read_file, path) != 0) {
    die("pthread_create");
  }
  printf("{\"ready\":true,\"pid\":%d}\n", (int)getpid());
  fflush(stdout);
  for (char line[64]; next_command(line, sizeof line);) {
    if (strcmp(line, "check") == 0) {
      check();
    } else if (strcmp(line, "answer") == 0) {
      atomic_store(&g_answered, true);
      (void)!write(g_answer[1], "x", 1);
      printf("{\"ok\":true}\n");
      fflush(stdout);
    }
  }
  umount2(argv[1], MNT_DETACH);
  return 0;
}
