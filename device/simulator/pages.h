// Gives pages the places that decide which cache sets they use, in the order in which they are first touched: where the
// emulator or the system put a mapping then makes no difference.
#ifndef TVMFBNET_DEVICE_SIMULATOR_PAGES_H_
#define TVMFBNET_DEVICE_SIMULATOR_PAGES_H_

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tvmfbnet::simulator {

class Pages {
 public:
  static constexpr unsigned kShift = 12, kBytes = 1 << kShift;

  explicit Pages(unsigned line_shift) : line_shift_(line_shift), recent_(kRecent) {}

  // The line of an address: with its page's place instead of the page. Remembers that the line was used just now.
  uint64_t use(uint64_t address) {
    uint64_t page = address >> kShift;
    Recent& recent = recent_[page % kRecent];
    if (recent.page != page) recent = {page, number(page)};
    uint64_t line = (recent.number << kShift | (address & (kBytes - 1))) >> line_shift_;
    used_[line] = ++time_;
    return line + first_line_;
  }

  // Something arrives from outside: what was done before may differ from run to run.
  void mark() { marked_ = time_; }
  // Makes what was done before the mark make no difference: forgets pages that were not used since, and gives the others
  // new places, by when they were used last and no longer by when they were first. Returns the lines of the new places
  // that were used last, since the mark, the latest at the end.
  std::vector<uint64_t> settle(uint64_t most_lines);
  void clear();

 private:
  static constexpr unsigned kRecent = 4096;
  // The page that was used last has the place before this one; the next new page has this one.
  static constexpr uint64_t kSettledEnd = 1 << 30;
  struct Recent {
    uint64_t page = ~uint64_t{0}, number = 0;
  };

  uint64_t number(uint64_t page);
  uint64_t lines_per_page() const { return kBytes >> line_shift_; }

  unsigned line_shift_;
  uint64_t time_ = 0, marked_ = 0, first_line_ = 0;
  std::unordered_map<uint64_t, uint64_t> numbers_;
  std::vector<Recent> recent_;
  std::vector<uint64_t> used_;  // when each line was used last; zero for never
};

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_PAGES_H_
