// The blocks that the emulator translated, and what each thread did with them.
#ifndef TVMFBNET_DEVICE_SIMULATOR_BLOCKS_H_
#define TVMFBNET_DEVICE_SIMULATOR_BLOCKS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "cache.h"
#include "pages.h"
#include "settings.h"

namespace tvmfbnet::simulator {

// Instructions that are executed one after another from their first on.
struct Block {
  uint32_t index;  // counts blocks from zero
  uint64_t begin, end;
  uint32_t instructions;
  std::string bytes;
  std::string file = "";  // that it lies in, and where; only for summaries
  uint64_t offset = 0;
};

// Blocks are translated again, for instance when a second thread starts: the same code at the same place is one block.
class Blocks {
 public:
  Block* add(uint64_t begin, std::string bytes, uint32_t instructions);

 private:
  std::mutex mutex_;
  std::deque<Block> blocks_;
  std::map<std::pair<uint64_t, std::string>, Block*> by_code_;
};

// What one thread did with one block since its clock was last read.
struct Activity {
  uint64_t executions = 0;
  uint64_t falls = 0;  // executions that went on with `follower`, the code right behind the block
  Block* follower = nullptr;
  Traffic traffic;
};

// What one block cost, in units of time (timing.h): in all, since the beginning.
struct Cost {
  uint64_t executions = 0;
  int64_t compute = 0, stalls[kMaxCaches] = {}, bandwidth = 0;
  Traffic traffic;
};

// One emulated thread on a core of its own: its caches, its counts.
class Thread {
 public:
  explicit Thread(const Settings& settings)
      : line_shift_(static_cast<unsigned>(__builtin_ctz(settings.line_bytes()))), caches_(settings), pages_(line_shift_) {}

  void execute(Block* block) {
    if (block->index >= activity_.size()) activity_.resize(block->index * 2 + 1024);
    if (previous_ != nullptr && previous_->end == block->begin) {
      Activity& before = activity_[previous_->index];
      if (before.follower == nullptr) before.follower = block;
      before.falls += before.follower == block;
    }
    if (activity_[block->index].executions++ == 0) active_.push_back(block);
    previous_ = block;
  }

  // An access of `size` bytes by an instruction of a block that is being executed.
  void access(const Block* block, uint64_t address, unsigned size, bool write) {
    access_line(block, address, write);
    uint64_t last = address + size - 1;
    if (last >> line_shift_ != address >> line_shift_) access_line(block, last, write);
  }

  // Calls `take(block, activity)` for each block that was executed since the last call.
  template <typename Take>
  void take_activity(Take take) {
    for (Block* block : active_) {
      take(block, activity_[block->index]);
      activity_[block->index] = {};
    }
    active_.clear();
    previous_ = nullptr;
  }

  // A message arrives. How it does differs from run to run: in which pieces, with what work for each.
  void mark() { pages_.mark(); }
  // Makes caches and the places of pages depend only on what was done since the mark.
  void settle();
  // Cold caches, and nothing executed.
  void clear();

  std::unordered_map<const Block*, Cost> costs;
  int64_t nanoseconds = 0;  // the thread's clock

 private:
  void access_line(const Block* block, uint64_t address, bool write) {
    // The same line again, such as the halves of a vector, changes nothing; its first store does.
    uint64_t line = address >> line_shift_;
    if (line == last_line_ && (last_written_ || !write)) return;
    bool plain = caches_.access(pages_.use(address), write, &activity_[block->index].traffic);
    // Not after a miss: lines that were fetched ahead may have taken its place.
    last_line_ = plain ? line : ~uint64_t{0};
    last_written_ = write;
  }

  unsigned line_shift_;
  Caches caches_;
  Pages pages_;
  std::vector<Activity> activity_;  // by the block's index
  std::vector<Block*> active_;
  Block* previous_ = nullptr;
  uint64_t last_line_ = ~uint64_t{0};
  bool last_written_ = false;
};

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_BLOCKS_H_
