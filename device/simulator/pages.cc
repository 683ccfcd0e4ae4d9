#include "pages.h"

#include <algorithm>
#include <utility>

namespace tvmfbnet::simulator {

uint64_t Pages::number(uint64_t page) {
  auto [entry, is_new] = numbers_.emplace(page, numbers_.size());
  if (is_new) used_.resize(numbers_.size() * lines_per_page());
  return entry->second;
}

std::vector<uint64_t> Pages::settle(uint64_t most_lines) {
  std::vector<std::pair<uint64_t, uint64_t>> order;  // when a page was used last, and which
  for (const auto& [page, number] : numbers_) {
    auto first = used_.begin() + static_cast<int64_t>(number * lines_per_page());
    uint64_t last = *std::max_element(first, first + static_cast<int64_t>(lines_per_page()));
    if (last > marked_) order.emplace_back(last, page);
  }
  std::sort(order.begin(), order.end());
  std::unordered_map<uint64_t, uint64_t> numbers;
  std::vector<uint64_t> used(order.size() * lines_per_page());
  std::vector<std::pair<uint64_t, uint64_t>> lines;  // when a line was used last, and which
  for (uint64_t number = 0; number < order.size(); ++number) {
    uint64_t page = order[number].second, before = numbers_[page];
    numbers[page] = number;
    for (uint64_t line = 0; line < lines_per_page(); ++line) {
      uint64_t when = used_[before * lines_per_page() + line];
      if (when <= marked_) continue;
      used[number * lines_per_page() + line] = when;
      lines.emplace_back(when, number * lines_per_page() + line);
    }
  }
  numbers_ = std::move(numbers);
  used_ = std::move(used);
  recent_.assign(kRecent, {});
  first_line_ = (kSettledEnd - numbers_.size()) * lines_per_page();
  std::sort(lines.begin(), lines.end());
  std::vector<uint64_t> result;
  for (size_t i = lines.size() - std::min<size_t>(lines.size(), most_lines); i < lines.size(); ++i) {
    result.push_back(lines[i].second + first_line_);
  }
  return result;
}

void Pages::clear() {
  numbers_.clear();
  recent_.assign(kRecent, {});
  used_.clear();
  time_ = marked_ = first_line_ = 0;
}

}  // namespace tvmfbnet::simulator
