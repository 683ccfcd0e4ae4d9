// Numbers pages in the order in which they are first touched, as an allocator hands out frames: where the emulator or
// the system put a mapping then makes no difference to caches.
#ifndef TVMFBNET_DEVICE_SIMULATOR_PAGES_H_
#define TVMFBNET_DEVICE_SIMULATOR_PAGES_H_

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tvmfbnet::simulator {

class Pages {
 public:
  static constexpr unsigned kShift = 12, kBytes = 1 << kShift;

  Pages() : recent_(kRecent) {}

  // The address with its page's number in place of the page.
  uint64_t place(uint64_t address) {
    uint64_t page = address >> kShift;
    Recent& recent = recent_[page % kRecent];
    if (recent.page != page) recent = {page, frames_.emplace(page, frames_.size()).first->second};
    return recent.frame << kShift | (address & (kBytes - 1));
  }

  void clear() {
    frames_.clear();
    recent_.assign(kRecent, {});
  }

 private:
  static constexpr unsigned kRecent = 4096;
  struct Recent {
    uint64_t page = ~uint64_t{0}, frame = 0;
  };

  std::unordered_map<uint64_t, uint64_t> frames_;
  std::vector<Recent> recent_;
};

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_PAGES_H_
