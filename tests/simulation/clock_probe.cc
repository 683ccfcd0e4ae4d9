// What the tests of the simulated clock run under the emulator. Each word names what to time in a forked process, and
// prints its nanoseconds; `real` times in the parent. Loops are in assembly: their instructions are counted in the tests.

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"

#if defined(__aarch64__)
#define COUNT_DOWN "subs %0, %0, #1\n b.ne 1b\n"
#define LOAD "ldr xzr, [%1]\n add %1, %1, %2\n"
#define SCRATCH
#define STORE "str xzr, [%1]\n add %1, %1, %2\n"
#else
#define COUNT_DOWN "sub $1, %0\n jne 1b\n"
#define LOAD "movq (%1), %%rax\n add %2, %1\n"
#define SCRATCH , "rax"
#define STORE "movq %2, (%1)\n add %2, %1\n"
#endif

static int64_t now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return int64_t{1000000000} * t.tv_sec + t.tv_nsec;
}

static void count_down(uint64_t times) {  // 2 instructions each
  asm volatile("1:\n" COUNT_DOWN : "+r"(times) : : "cc");
}

static void long_loop(uint64_t times) {  // 2002 instructions each, without a branch
  asm volatile("1:\n .rept 2000\n nop\n .endr\n" COUNT_DOWN : "+r"(times) : : "cc");
}

// 4 instructions a load
static void load(char* from, uint64_t stride, uint64_t times) {
  asm volatile("1:\n" LOAD COUNT_DOWN : "+r"(times), "+r"(from) : "r"(stride) : "cc", "memory" SCRATCH);
}

static void store(char* to, uint64_t stride, uint64_t times) {
  asm volatile("1:\n" STORE COUNT_DOWN : "+r"(times), "+r"(to) : "r"(stride) : "cc", "memory");
}

static char* buffer;

static int64_t timed(void (*work)()) {
  int64_t before = now(CLOCK_MONOTONIC);
  work();
  return now(CLOCK_MONOTONIC) - before;
}

// Two buffers that fill most of the second cache, by turns, with an untimed round first.
static int64_t after_message(char* other) {
  auto work = [other] {
    for (int i = 0; i < 7; ++i) {
      load(buffer, 64, 384);
      store(other, 64, 384);
    }
  };
  work();
  int64_t before = now(CLOCK_MONOTONIC);
  work();
  load(buffer + (1 << 19), 192, 80);  // not used since the message
  return now(CLOCK_MONOTONIC) - before;
}

// A message that arrives in pieces, each of which makes work in memory of its own.
static int64_t receive(int pieces) {
  int ends[2];
  char byte = 0;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) abort();
  char* other = static_cast<char*>(malloc(384 * 64));
  for (int piece = 0; piece < pieces; ++piece) {
    if (write(ends[1], &byte, 1) != 1 || recv(ends[0], &byte, 1, 0) != 1) abort();
    if (piece + 1 < pieces) load(buffer + (1 << 19) + (piece << 14), 192, 80);
    if (piece + 1 < pieces) store(other + (piece << 7), 64, 90);
  }
  return after_message(other);
}

static void* in_thread(void* result) {
  *static_cast<int64_t*>(result) = timed([] { count_down(1000000); });
  return nullptr;
}

static void run(const char* word) {
  if (!strcmp(word, "start")) {
    printf("%lld %d\n", static_cast<long long>(now(CLOCK_MONOTONIC) / 1000000000), now(CLOCK_REALTIME) < 2000000000);
  } else if (!strcmp(word, "nothing")) {
    printf("%lld\n", static_cast<long long>(timed([] {})));
  } else if (!strcmp(word, "loop")) {
    printf("%lld\n", static_cast<long long>(timed([] { count_down(1000000); })));
  } else if (!strcmp(word, "long")) {
    printf("%lld\n", static_cast<long long>(timed([] { long_loop(1000); })));
  } else if (!strcmp(word, "sleep")) {
    printf("%lld\n", static_cast<long long>(timed([] { usleep(100000); })));
  } else if (!strcmp(word, "near")) {  // 2 KiB, again and again
    printf("%lld\n", static_cast<long long>(timed([] { for (int i = 0; i < 100; ++i) load(buffer, 64, 32); })));
  } else if (!strcmp(word, "far")) {  // 1 MiB, twice
    printf("%lld\n", static_cast<long long>(timed([] { for (int i = 0; i < 2; ++i) load(buffer, 64, 16384); })));
  } else if (!strcmp(word, "written")) {
    printf("%lld\n", static_cast<long long>(timed([] { for (int i = 0; i < 2; ++i) store(buffer, 64, 16384); })));
  } else if (!strncmp(word, "pieces", 6)) {
    printf("%lld\n", static_cast<long long>(receive(atoi(word + 6))));
  } else if (!strcmp(word, "threads")) {
    pthread_t threads[3];
    int64_t results[3];
    for (int i = 0; i < 3; ++i) pthread_create(&threads[i], nullptr, in_thread, &results[i]);
    for (int i = 0; i < 3; ++i) pthread_join(threads[i], nullptr);
    for (int i = 0; i < 3; ++i) printf("%lld\n", static_cast<long long>(results[i]));
  } else if (!strcmp(word, "marked")) {  // a part of a program, for the summary
    count_down(500000);
    syscall(SYS_getpriority, tvmfbnet::simulator::kMagic, tvmfbnet::simulator::kBegin, 0, 0);
    count_down(1000000);
    syscall(SYS_getpriority, tvmfbnet::simulator::kMagic, tvmfbnet::simulator::kSummary, 0, 0);
    _Exit(0);
  } else if (!strcmp(word, "heap")) {
    // Blocks of all sizes keep what is written into them, are aligned, and are reused in the same way.
    char* blocks[200];
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 200; ++i) {
        size_t size = static_cast<size_t>(i) * i * 5 + 1;
        blocks[i] = static_cast<char*>(i % 3 == 0 ? calloc(size, 1) : malloc(size));
        if (reinterpret_cast<uintptr_t>(blocks[i]) % 16 != 0 || (i % 3 == 0 && blocks[i][size / 2] != 0)) abort();
        memset(blocks[i], i, size);
      }
      for (int i = 0; i < 200; i += 2) blocks[i] = static_cast<char*>(realloc(blocks[i], static_cast<size_t>(i) * i * 9 + 1));
      for (int i = 0; i < 200; ++i) {
        size_t size = static_cast<size_t>(i) * i * 5 + 1;
        for (size_t at = 0; at < size; ++at) if (blocks[i][at] != static_cast<char>(i)) abort();
        free(blocks[i]);
      }
    }
    void *line = nullptr, *page = nullptr, *none = nullptr;
    if (posix_memalign(&line, 64, 100000) || posix_memalign(&page, 8192, 10) || posix_memalign(&none, 24, 10) != EINVAL) abort();
    volatile size_t huge = SIZE_MAX / 2;
    if (malloc(huge) != nullptr || errno != ENOMEM || calloc(huge, 4) != nullptr) abort();
    printf("%d %d\n", static_cast<int>(reinterpret_cast<uintptr_t>(line) % 4096), static_cast<int>(reinterpret_cast<uintptr_t>(page) % 8192));
  }
  fflush(stdout);
}

int main(int argc, char** argv) {
  buffer = static_cast<char*>(aligned_alloc(4096, 1 << 20));
  memset(buffer, 1, 1 << 20);
  for (int i = 1; i < argc; ++i) {
    if (!strcmp(argv[i], "real")) {
      printf("%lld\n", static_cast<long long>(timed([] { usleep(100000); })));
      fflush(stdout);
      continue;
    }
    pid_t child = fork();
    if (child == 0) {
      run(argv[i]);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
      fprintf(stderr, "%s ended with status %d\n", argv[i], status);
      return 1;
    }
  }
  return 0;
}
