// The memory of a simulated session: malloc() and its kin, preloaded with the clock. The C library's own heap looks in
// every session as what happened before left it, and with it which cache lines data shares. This one starts afresh in
// every forked process, on pages of its own, so that the same calls give the same places.
//
// Blocks have sizes in steps of a quarter of a power of two and are reused by size, last freed first. Large ones begin
// at the same place in a page. Memory is never given back to the system: sessions are short.

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tvmfbnet::simulator {
namespace {

constexpr size_t kUnit = 16, kPage = 4096, kLine = 64, kLarge = 16384;
constexpr size_t kRegion = size_t{64} << 20;
constexpr unsigned kClasses = 256;

// Before each block.
struct Header {
  uint32_t generation, size_class;
  size_t size;  // what was asked for
};
static_assert(sizeof(Header) == kUnit, "blocks are aligned to 16 bytes");

struct Free {
  Free* next;
};

struct Heap {
  char *next = nullptr, *end = nullptr;
  Free* free[kClasses] = {};
};

Heap heap;
uint32_t generation = 1;
std::atomic_flag busy = ATOMIC_FLAG_INIT;

void lock() {
  while (busy.test_and_set(std::memory_order_acquire)) {
  }
}
void unlock() { busy.clear(std::memory_order_release); }

class Lock {
 public:
  Lock() { lock(); }
  ~Lock() { unlock(); }
};

void begin_session() {
  heap = Heap();
  ++generation;  // what the parent allocated stays where it is, also when it is freed
  unlock();
}

__attribute__((constructor)) void watch_forks() { pthread_atfork(lock, unlock, begin_session); }

// The class of a size is that of the smallest block that holds it; four classes for every power of two above 64.
unsigned class_of(size_t size) {
  size_t units = (size + kUnit - 1) / kUnit;
  if (units <= 8) return static_cast<unsigned>(units == 0 ? 1 : units);
  unsigned power = 63 - static_cast<unsigned>(__builtin_clzll(units - 1));  // 2^power <= units - 1, so power >= 3
  return 9 + (power - 3) * 4 + static_cast<unsigned>(((units - 1) >> (power - 2)) & 3);
}

size_t size_of(unsigned size_class) {
  if (size_class <= 8) return size_class * kUnit;
  unsigned power = 3 + (size_class - 9) / 4;
  return ((size_t{5} + (size_class - 9) % 4) << (power - 2)) * kUnit;
}

char* carve(size_t bytes, size_t alignment) {
  auto place = reinterpret_cast<uintptr_t>(heap.next);
  uintptr_t begin = (place + alignment - 1) / alignment * alignment;
  if (heap.next == nullptr || begin + bytes > reinterpret_cast<uintptr_t>(heap.end)) {
    size_t region = bytes + alignment > kRegion ? (bytes + alignment + kPage - 1) / kPage * kPage : kRegion;
    void* fresh = mmap(nullptr, region, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) return nullptr;
    heap.next = static_cast<char*>(fresh);
    heap.end = heap.next + region;
    begin = (reinterpret_cast<uintptr_t>(fresh) + alignment - 1) / alignment * alignment;
  }
  heap.next = reinterpret_cast<char*>(begin + bytes);
  return reinterpret_cast<char*>(begin);
}

Header* header_of(void* block) { return static_cast<Header*>(block) - 1; }

// Every block of a line's size or more begins at a line, every large one at the second line of a page.
void* allocate(size_t size) {
  if (size > PTRDIFF_MAX / 2) return nullptr;
  unsigned size_class = class_of(size);
  Lock hold;
  void* block = heap.free[size_class];
  if (block != nullptr) {
    heap.free[size_class] = heap.free[size_class]->next;
  } else {
    size_t bytes = size_of(size_class), before = bytes >= kLine ? kLine : kUnit;
    char* memory = carve(before + bytes, bytes >= kLarge ? kPage : before);
    if (memory == nullptr) return nullptr;
    block = memory + before;
  }
  *header_of(block) = {generation, size_class, size};
  return block;
}

// Larger alignments than a line: a block of its own that is never reused.
void* allocate_aligned(size_t alignment, size_t size) {
  if (alignment <= kUnit || (alignment <= kLine && size >= kLine)) return allocate(size);
  if (alignment <= kLine) return allocate(kLine);
  if (size > PTRDIFF_MAX / 2 || alignment > PTRDIFF_MAX / 2) return nullptr;
  Lock hold;
  char* memory = carve(alignment + size, alignment);
  if (memory == nullptr) return nullptr;
  void* block = memory + alignment;
  *header_of(block) = {0, 0, size};
  return block;
}

void release(void* block) {
  if (block == nullptr) return;
  Lock hold;
  Header* header = header_of(block);
  if (header->generation != generation) return;
  auto* entry = static_cast<Free*>(block);
  entry->next = heap.free[header->size_class];
  heap.free[header->size_class] = entry;
}

void* or_error(void* block) {
  if (block == nullptr) errno = ENOMEM;
  return block;
}

}  // namespace
}  // namespace tvmfbnet::simulator

#define PRELOADED __attribute__((visibility("default")))

extern "C" {

using namespace tvmfbnet::simulator;

PRELOADED void* malloc(size_t size) noexcept { return or_error(allocate(size)); }

PRELOADED void free(void* block) noexcept { release(block); }

PRELOADED void* calloc(size_t count, size_t size) noexcept {
  size_t bytes = 0;
  void* block = __builtin_mul_overflow(count, size, &bytes) ? nullptr : allocate(bytes);
  return block == nullptr ? or_error(nullptr) : std::memset(block, 0, bytes);
}

PRELOADED void* realloc(void* block, size_t size) noexcept {
  if (block == nullptr) return malloc(size);
  Header* header = header_of(block);
  if (header->generation != 0 && size != 0 && class_of(size) == header->size_class) {
    header->size = size;
    return block;
  }
  void* moved = malloc(size);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, block, header->size < size ? header->size : size);
  release(block);
  return moved;
}

PRELOADED int posix_memalign(void** block, size_t alignment, size_t size) noexcept {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  *block = allocate_aligned(alignment, size);
  return *block == nullptr ? ENOMEM : 0;
}

PRELOADED void* aligned_alloc(size_t alignment, size_t size) noexcept { return or_error(allocate_aligned(alignment, size)); }
PRELOADED void* memalign(size_t alignment, size_t size) noexcept { return or_error(allocate_aligned(alignment, size)); }
PRELOADED void* valloc(size_t size) noexcept { return or_error(allocate_aligned(kPage, size)); }
PRELOADED void* pvalloc(size_t size) noexcept { return valloc((size + kPage - 1) / kPage * kPage); }
PRELOADED size_t malloc_usable_size(void* block) noexcept { return block == nullptr ? 0 : header_of(block)->size; }

}  // extern "C"
