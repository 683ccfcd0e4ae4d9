#include "cache.h"

#include <algorithm>
#include <cstdlib>

#include "pages.h"

namespace tvmfbnet::simulator {

Cache::Cache(const CacheSettings& settings)
    : sets_(settings.size_kb * 1024 / (static_cast<uint64_t>(settings.ways) * settings.line_bytes)),
      mask_((sets_ & (sets_ - 1)) == 0 ? sets_ - 1 : 0),
      ways_(settings.ways),
      entries_(sets_ * ways_, kEmpty) {}

bool Cache::has(uint64_t line) const {
  const uint64_t* set = const_cast<Cache*>(this)->set(line);
  return std::any_of(set, set + ways_, [line](uint64_t entry) { return (entry >> kFlagBits) == line; });
}

Cache::Evicted Cache::take(uint64_t line, bool dirty, bool prefetched) {
  uint64_t* set = this->set(line);
  uint64_t last = set[ways_ - 1];
  std::copy_backward(set, set + ways_ - 1, set + ways_);
  set[0] = line << kFlagBits | (dirty ? kDirty : 0) | (prefetched ? kPrefetched : 0);
  return {last != kEmpty && (last & kDirty) != 0, last >> kFlagBits};
}

bool Cache::soil(uint64_t line) {
  uint64_t* set = this->set(line);
  uint64_t* entry = std::find_if(set, set + ways_, [line](uint64_t e) { return (e >> kFlagBits) == line; });
  if (entry == set + ways_) return false;
  *entry |= kDirty;
  return true;
}

void Cache::clear() { std::fill(entries_.begin(), entries_.end(), kEmpty); }

Prefetcher::Prefetcher(unsigned streams, unsigned degree, unsigned lines_per_page)
    : degree_(degree), lines_per_page_(lines_per_page), streams_(degree == 0 ? 0 : streams) {
  clear();
}

void Prefetcher::clear() {
  std::fill(streams_.begin(), streams_.end(), Stream{});
  std::fill(history_, history_ + kHistory, kNone);
  time_ = 0;
  newest_ = 0;
}

const std::vector<uint64_t>& Prefetcher::train(uint64_t line, bool missed) {
  ahead_.clear();
  if (streams_.empty()) return ahead_;
  ++time_;
  for (Stream& stream : streams_) {
    if (stream.next != line) continue;
    stream.next = line + static_cast<uint64_t>(stream.stride);
    stream.used = time_;
    fetch_ahead(line, stream.stride);
    return ahead_;
  }
  // Of a stream that others pushed out, prefetched lines may be left.
  if (!missed) return ahead_;
  if (int64_t stride = stride_to(line); stride != 0) {
    Stream& oldest = *std::min_element(streams_.begin(), streams_.end(),
                                       [](const Stream& a, const Stream& b) { return a.used < b.used; });
    oldest = {line + static_cast<uint64_t>(stride), stride, time_};
    fetch_ahead(line, stride);
  }
  newest_ = (newest_ + 1) % kHistory;
  history_[newest_] = line;
  return ahead_;
}

// The shortest distance at which the two lines before this one were missed as well; zero if there is none.
int64_t Prefetcher::stride_to(uint64_t line) const {
  int64_t best = 0;
  for (uint64_t before : history_) {
    int64_t stride = static_cast<int64_t>(line - before);
    if (before == kNone || stride == 0 || std::llabs(stride) > kReach) continue;
    if (best != 0 && std::llabs(stride) >= std::llabs(best)) continue;
    uint64_t first = before - static_cast<uint64_t>(stride);
    if (std::find(history_, history_ + kHistory, first) != history_ + kHistory) best = stride;
  }
  return best;
}

void Prefetcher::fetch_ahead(uint64_t line, int64_t stride) {
  for (unsigned step = 1; step <= degree_; ++step) {
    uint64_t next = line + static_cast<uint64_t>(stride * static_cast<int64_t>(step));
    if (next / lines_per_page_ != line / lines_per_page_) return;
    ahead_.push_back(next);
  }
}

Caches::Caches(const Settings& settings)
    : levels_(settings.caches.begin(), settings.caches.end()),
      prefetcher_(settings.streams, settings.degree, Pages::kBytes / settings.line_bytes()),
      lines_(settings.caches.back().size_kb * 1024 / settings.line_bytes()) {}

void Caches::warm(uint64_t line) {
  Traffic ignored;
  bool prefetched = false;
  if (!levels_[0].use(line, false, &prefetched)) fetch(line, false, false, &ignored);
}

void Caches::clear() {
  for (Cache& level : levels_) level.clear();
  prefetcher_.clear();
}

// A store that misses waits in the store buffer, so it costs its transfers and no latency: only loads are counted.
void Caches::after(uint64_t line, bool write, bool missed, Traffic* traffic) {
  if (missed) {
    unsigned level = fetch(line, write, false, traffic);
    if (!write) ++traffic->misses[level - 1];
  }
  for (uint64_t next : prefetcher_.train(line, missed)) {
    if (!levels_[0].has(next)) fetch(next, false, true, traffic);
  }
}

// Brings a line that the first level lacks into every level above the one that has it; returns that one.
unsigned Caches::fetch(uint64_t line, bool write, bool prefetched, Traffic* traffic) {
  bool ignored = false;
  unsigned level = 1;
  while (level < levels_.size() && !levels_[level].use(line, false, &ignored)) ++level;
  for (unsigned above = level; above-- > 0;) {
    ++traffic->lines[above];
    take(above, line, write && above == 0, prefetched && above == 0, traffic);
  }
  return level;
}

void Caches::take(unsigned level, uint64_t line, bool dirty, bool prefetched, Traffic* traffic) {
  Cache::Evicted evicted = levels_[level].take(line, dirty, prefetched);
  if (!evicted.dirty) return;
  ++traffic->lines[level];
  unsigned below = level + 1;
  if (below < levels_.size() && !levels_[below].soil(evicted.line)) take(below, evicted.line, true, false, traffic);
}

}  // namespace tvmfbnet::simulator
