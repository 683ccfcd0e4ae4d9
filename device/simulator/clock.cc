// Preloaded into a program that runs under the emulator: makes clock_gettime() the simulated core's clock.
// Only in processes that the program forks, such as a session of the device server: the program's own deadlines are
// real. Every such process begins with cold caches, at second 1. See protocol.h.

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <alloca.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "protocol.h"

namespace tvmfbnet::simulator {
namespace {

constexpr int kAttempts = 100;
constexpr int64_t kBegan = 1'000'000'000, kSecond = 1'000'000'000;

volatile Slot* mailbox = nullptr;
uint64_t process = 0;
bool is_session = false;
std::atomic<uint64_t> questions{0}, threads{0};
std::atomic<bool> heard{false};  // from outside, since the clock was read last
thread_local uint64_t slot = kSlots;

[[noreturn]] void die(const char* message) {
  char line[200];
  int size = std::snprintf(line, sizeof(line), "simulated clock: %s\n", message);
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line, static_cast<size_t>(size));
  std::abort();
}

void tell(Operation operation, uint64_t where, uint64_t tag) {
  syscall(SYS_getpriority, static_cast<long>(kMagic), static_cast<long>(operation), where, tag);
}

void begin_session() {
  process = static_cast<uint64_t>(getpid());
  is_session = true;
  tell(kBegin, 0, 0);
}

__attribute__((constructor)) void start() {
  const char* path = std::getenv(kMailboxVariable);
  int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) die("TVMFBNET_MAILBOX names no file that can be opened");
  void* page = mmap(nullptr, kMailboxBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (page == MAP_FAILED) die("the mailbox cannot be mapped");
  mailbox = static_cast<volatile Slot*>(page);
  pthread_atfork(nullptr, nullptr, begin_session);
}

int64_t virtual_nanoseconds() {
  if (slot == kSlots) slot = threads++ % kSlots;
  volatile Slot& answer = mailbox[slot];
  // Another process or a 65th thread may use the slot at the same moment: the tag tells whose answer it is.
  Operation operation = heard.exchange(false) ? kSettle : kRead;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    uint64_t tag = process << 32 | (++questions & 0xffffffff);
    tell(operation, slot, tag);
    uint64_t status = answer.status;
    int64_t nanoseconds = answer.nanoseconds;
    if (answer.tag != tag) continue;
    if (status != kOk) die("the simulator cannot tell the time");
    return kBegan + nanoseconds;
  }
  die("the simulator does not answer; the emulator runs without its plugin");
}

bool is_virtual(clockid_t clock) {
  return is_session && (clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC_RAW);
}

int (*program)(int, char**, char**) = nullptr;

// The arguments and the environment lie above the stack, so their length decides where in a page the stack begins, and
// with that which cache lines it shares with what. The program gets one that begins at a page's border.
__attribute__((noinline)) int on_aligned_stack(int argc, char** argv, char** environment) {
  char here = 0;
  size_t above = reinterpret_cast<uintptr_t>(&here) % 4096;
  volatile char* gap = static_cast<volatile char*>(alloca(above + 4096));
  *gap = 0;
  return program(argc, argv, environment);
}

}  // namespace
}  // namespace tvmfbnet::simulator

extern "C" {

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, timespec* out) noexcept {
  using namespace tvmfbnet::simulator;
  if (!is_virtual(clock)) return static_cast<int>(syscall(SYS_clock_gettime, clock, out));
  int64_t now = virtual_nanoseconds();
  out->tv_sec = now / kSecond;
  out->tv_nsec = now % kSecond;
  return 0;
}

// The RPC server's only way to receive.
__attribute__((visibility("default"))) ssize_t recv(int fd, void* bytes, size_t size, int flags) {
  using namespace tvmfbnet::simulator;
  ssize_t received = recvfrom(fd, bytes, size, flags, nullptr, nullptr);
  if (is_session) {
    heard = true;
    tell(kHeard, 0, 0);
  }
  return received;
}

__attribute__((visibility("default"))) int __libc_start_main(int (*main)(int, char**, char**), int argc, char** argv,
                                                             void (*init)(), void (*fini)(), void (*loader_fini)(),
                                                             void* stack_end) {
  using Start = int (*)(int (*)(int, char**, char**), int, char**, void (*)(), void (*)(), void (*)(), void*);
  auto next = reinterpret_cast<Start>(dlsym(RTLD_NEXT, "__libc_start_main"));
  tvmfbnet::simulator::program = main;
  return next(tvmfbnet::simulator::on_aligned_stack, argc, argv, init, fini, loader_fini, stack_end);
}

}  // extern "C"
