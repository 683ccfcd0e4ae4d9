// How a program inside the emulator talks to the plugin: it makes a syscall that does nothing (getpriority of a class
// that does not exist) with these arguments, and reads the answer from a page that both map, the mailbox.
//   getpriority(kMagic, operation, slot, tag)
#ifndef TVMFBNET_DEVICE_SIMULATOR_PROTOCOL_H_
#define TVMFBNET_DEVICE_SIMULATOR_PROTOCOL_H_

#include <cstdint>

namespace tvmfbnet::simulator {

constexpr uint32_t kMagic = 0x5f7a3c19;

enum Operation : uint64_t {
  kBegin = 1,    // forget everything: cold caches, time zero
  kRead = 2,     // the calling thread's virtual time, into slot `slot` of the mailbox
  kSummary = 3,  // write the summary now; other threads must be idle, as at kBegin
  kHeard = 4,    // a message arrived: what was done until now may differ from run to run
  kSettle = 5,   // as kRead; from here on what was done before the last message makes no difference
};

enum Status : uint64_t { kOk = 1, kFailed = 2 };

// Whoever asks chooses a tag that no one else uses; the answer carries it.
struct Slot {
  uint64_t tag, status;
  int64_t nanoseconds;
  uint64_t unused[5];
};

constexpr unsigned kSlots = 64;
constexpr unsigned kMailboxBytes = kSlots * sizeof(Slot);
static_assert(kMailboxBytes == 4096, "the mailbox is one page");

// Names the mailbox's file to the program inside.
constexpr const char* kMailboxVariable = "TVMFBNET_MAILBOX";

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_PROTOCOL_H_
