// What the test targets share: memory content that can be derived from its address, and the
// protocol. A target prints one line of JSON when it is set up, then obeys lines on standard input:
// "check" (answers {"ok":true} or {"ok":false,"failed":[...]}), "exit", and what it adds itself. It
// ends at the end of standard input, so that none outlives its test.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kPage = 4096, kWordsPerPage = kPage / 8 };

// splitmix64 of an address and a seed; harness/pattern.ts has the same.
static inline uint64_t word_at(uint64_t address, uint64_t seed) {
  uint64_t z = address + seed * 0x9e3779b97f4a7c15u + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static inline void fill(void* to, size_t bytes, uint64_t key, uint64_t seed) {
  uint64_t* word = to;
  for (size_t i = 0; i < bytes / 8; i++) {
    word[i] = word_at(key + i * 8, seed);
  }
}

// Offset of the first wrong word, or -1.
static inline long first_wrong(const void* from, size_t bytes, uint64_t key, uint64_t seed) {
  const uint64_t* word = from;
  for (size_t i = 0; i < bytes / 8; i++) {
    if (word[i] != word_at(key + i * 8, seed)) {
      return (long)i * 8;
    }
  }
  return -1;
}

static inline long first_nonzero(const void* from, size_t bytes) {
  const uint64_t* word = from;
  for (size_t i = 0; i < bytes / 8; i++) {
    if (word[i] != 0) {
      return (long)i * 8;
    }
  }
  return -1;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char* format, ...) {
  int saved = errno;
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fprintf(stderr, " (%s)\n", strerror(saved));
  _exit(111);
}

// Failures of the check that is under way.
static char g_failures[16384];
static size_t g_failures_used;

__attribute__((format(printf, 1, 2))) static inline void failed(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  size_t left = sizeof g_failures - g_failures_used;
  int used =
      snprintf(g_failures + g_failures_used, left, "%s\"%s\"", g_failures_used ? "," : "", text);
  if (used > 0 && (size_t)used < left) {
    g_failures_used += (size_t)used;
  } else {
    g_failures[g_failures_used] = 0;
  }
}

static inline void answer_check(void) {
  if (g_failures_used == 0) {
    printf("{\"ok\":true}\n");
  } else {
    printf("{\"ok\":false,\"failed\":[%s]}\n", g_failures);
  }
  fflush(stdout);
  g_failures_used = 0;
  g_failures[0] = 0;
}

// Next line of standard input without its newline. False at its end or at "exit".
static inline bool next_command(char* line, int size) {
  while (fgets(line, size, stdin) == NULL) {
    if (feof(stdin)) {
      return false;
    }
    // A read that a dump made fail is a finding, not something to hide.
    die("standard input cannot be read");
  }
  line[strcspn(line, "\n")] = 0;
  return strcmp(line, "exit") != 0;
}

// For processes that a target forks: they keep no descriptor of it and die with it.
static inline void become_quiet_child(int keep_fd) {
  prctl(PR_SET_PDEATHSIG, 9);
  if (keep_fd >= 0) {
    if (keep_fd > 0) {
      syscall(SYS_close_range, 0, keep_fd - 1, 0);
    }
    syscall(SYS_close_range, keep_fd + 1, ~0u, 0);
  } else {
    syscall(SYS_close_range, 0, ~0u, 0);
  }
}
