// For LD_PRELOAD: a file system of its own kind. SLUICE_TEST_ODD says which, as letters:
//   l  it has no hard links
//   n  somebody makes a file of each name right before it is given
//   s  it cannot bring names in the directory SLUICE_TEST_ODD_DIR to the disk
//   u  the first file of a temporary name that is to be removed cannot be
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is(char kind) {
  const char* kinds = getenv("SLUICE_TEST_ODD");
  return kinds != NULL && strchr(kinds, kind) != NULL;
}

static int fails(int err) {
  errno = err;
  return -1;
}

static void take(const char* name) {
  const int fd = is('n') ? open(name, O_WRONLY | O_CREAT | O_EXCL, 0600) : -1;
  if (fd < 0) return;
  if (write(fd, "mine", 4) != 4) abort();
  close(fd);
}

int link(const char* from, const char* to) {
  if (is('l')) return fails(EPERM);
  take(to);
  return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int rename(const char* from, const char* to) {
  take(to);
  return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int fsync(int fd) {
  struct stat odd;
  struct stat synced;
  if (is('s') && stat(getenv("SLUICE_TEST_ODD_DIR"), &odd) == 0 && fstat(fd, &synced) == 0 &&
      odd.st_ino == synced.st_ino) {
    return fails(EIO);
  }
  int (*const real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  return real(fd);
}

int unlink(const char* name) {
  static atomic_int tries;
  if (is('u') && strstr(name, ".tmp") != NULL && tries++ == 0) return fails(EIO);
  return unlinkat(AT_FDCWD, name, 0);
}
