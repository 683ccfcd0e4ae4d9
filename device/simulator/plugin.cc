// A plugin of qemu's user mode that gives emulated programs the clock of a simulated core: it counts how often each
// translated block is executed, sends each data access through a model of the core's caches, and makes time of both.
// Nothing here depends on the emulated machine.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "blocks.h"
#include "cycle_client.h"
#include "protocol.h"
#include "qemu_api.h"
#include "settings.h"
#include "summary.h"
#include "timing.h"

namespace tvmfbnet::simulator {
namespace {

constexpr unsigned kMaxThreads = 4096;

// One emulator has one simulator, and its callbacks have no other way to reach it than a global.
struct Simulator {
  explicit Simulator(Settings given) : settings(std::move(given)), timing(settings, source()) {}

  CycleSource source() const {
    if (settings.server.empty()) return nullptr;
    return [path = settings.server](const std::vector<std::string>& blocks) { return ask_cycles(path, blocks); };
  }

  Settings settings;
  Blocks blocks;
  std::mutex mutex;  // of timing, and of the threads' making
  Timing timing;
  Thread* threads[kMaxThreads] = {};
  volatile Slot* mailbox = nullptr;
};

Simulator* simulator = nullptr;

void warn(const std::string& message) {
  std::string line = "simulator: " + message + "\n";
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

Thread& make_thread(unsigned vcpu) {
  if (vcpu >= kMaxThreads) {
    warn("too many threads");
    std::abort();
  }
  simulator->threads[vcpu] = new Thread(simulator->settings);  // for as long as the process lives
  return *simulator->threads[vcpu];
}

// Only the thread itself uses its entry.
Thread& thread_of(unsigned vcpu) {
  Thread* thread = vcpu < kMaxThreads ? simulator->threads[vcpu] : nullptr;
  return thread != nullptr ? *thread : make_thread(vcpu);
}

void on_block(unsigned vcpu, void* block) { thread_of(vcpu).execute(static_cast<Block*>(block)); }

void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void* block) {
  thread_of(vcpu).access(static_cast<Block*>(block), address, 1U << qemu_plugin_mem_size_shift(info),
                         qemu_plugin_mem_is_store(info));
}

void on_translation(qemu_plugin_id_t, qemu_plugin_tb* tb) {
  size_t count = qemu_plugin_tb_n_insns(tb);
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(tb, i);
    bytes.append(static_cast<const char*>(qemu_plugin_insn_data(instruction)), qemu_plugin_insn_size(instruction));
  }
  Block* block = simulator->blocks.add(qemu_plugin_tb_vaddr(tb), std::move(bytes), static_cast<uint32_t>(count));
  if (!simulator->settings.summary.empty() && block->file.empty()) locate(block);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
  for (size_t i = 0; i < count; ++i) {
    qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(tb, i);
    // One callback for both: of two, qemu 7.2 calls both for every access.
    qemu_plugin_register_vcpu_mem_cb(instruction, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, block);
  }
}

void begin() {
  for (Thread* thread : simulator->threads) {
    if (thread != nullptr) thread->clear();
  }
}

void read_clock(Thread* thread, uint64_t slot, uint64_t tag) {
  if (simulator->mailbox == nullptr || slot >= kSlots) return;
  volatile Slot& answer = simulator->mailbox[slot];
  try {
    simulator->timing.advance(thread);
    answer.nanoseconds = thread->nanoseconds;
    answer.status = kOk;
  } catch (const std::exception& error) {
    warn(error.what());
    answer.status = kFailed;
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  answer.tag = tag;
}

void summarise() {
  try {
    std::vector<const Thread*> threads;
    for (Thread* thread : simulator->threads) {
      if (thread == nullptr) continue;
      simulator->timing.advance(thread);
      threads.push_back(thread);
    }
    write_summary(simulator->settings, simulator->timing, threads);
  } catch (const std::exception& error) {
    warn(error.what());
  }
}

void on_syscall(qemu_plugin_id_t, unsigned vcpu, int64_t, uint64_t magic, uint64_t operation, uint64_t slot, uint64_t tag,
                uint64_t, uint64_t, uint64_t, uint64_t) {
  if (static_cast<uint32_t>(magic) != kMagic) return;
  std::lock_guard<std::mutex> lock(simulator->mutex);
  if (operation == kBegin) begin();
  if (operation == kHeard) thread_of(vcpu).mark();
  if (operation == kRead || operation == kSettle) read_clock(&thread_of(vcpu), slot, tag);
  if (operation == kSettle) thread_of(vcpu).settle();
  if (operation == kSummary && !simulator->settings.summary.empty()) summarise();
}

void on_exit(qemu_plugin_id_t, void*) {
  if (simulator->settings.summary.empty()) return;
  std::lock_guard<std::mutex> lock(simulator->mutex);
  summarise();
}

volatile Slot* map_mailbox(const std::string& path) {
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, kMailboxBytes) != 0) throw SettingsError("cannot open the mailbox " + path);
  void* page = mmap(nullptr, kMailboxBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (page == MAP_FAILED) throw SettingsError("cannot map the mailbox " + path);
  return static_cast<volatile Slot*>(page);
}

int install(qemu_plugin_id_t id, int count, char** arguments) {
  try {
    simulator = new Simulator(read_settings(count, arguments));
    if (!simulator->settings.mailbox.empty()) simulator->mailbox = map_mailbox(simulator->settings.mailbox);
  } catch (const SettingsError& error) {
    warn(error.what());
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  qemu_plugin_register_atexit_cb(id, on_exit, nullptr);
  return 0;
}

}  // namespace
}  // namespace tvmfbnet::simulator

extern "C" {

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void*, int count,
                                                               char** arguments) {
  return tvmfbnet::simulator::install(id, count, arguments);
}

}  // extern "C"
