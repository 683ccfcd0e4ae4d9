#include "blocks.h"

#include <utility>

namespace tvmfbnet::simulator {

Block* Blocks::add(uint64_t begin, std::string bytes, uint32_t instructions) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto [entry, is_new] = by_code_.try_emplace({begin, bytes}, nullptr);
  if (is_new) {
    auto index = static_cast<uint32_t>(blocks_.size());
    uint64_t end = begin + bytes.size();
    blocks_.push_back({index, begin, end, instructions, std::move(bytes)});
    entry->second = &blocks_.back();
  }
  return entry->second;
}

void Thread::settle() {
  caches_.clear();
  for (uint64_t line : pages_.settle(caches_.lines())) caches_.warm(line);
  last_line_ = ~uint64_t{0};
}

void Thread::clear() {
  take_activity([](Block*, const Activity&) {});
  costs.clear();
  nanoseconds = 0;
  caches_.clear();
  pages_.clear();
  last_line_ = ~uint64_t{0};
}

}  // namespace tvmfbnet::simulator
