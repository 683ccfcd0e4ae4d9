// A model of a core's data caches: levels of LRU sets that allocate on writes and write back, and a stride prefetcher.
// It knows nothing of the emulator, and counts instead of timing: time is made of its counts in timing.cc.
#ifndef TVMFBNET_DEVICE_SIMULATOR_CACHE_H_
#define TVMFBNET_DEVICE_SIMULATOR_CACHE_H_

#include <cstdint>
#include <vector>

#include "settings.h"

namespace tvmfbnet::simulator {

// What accesses caused. Level 0 is the first cache; the level after the last cache is memory.
struct Traffic {
  uint64_t misses[kMaxCaches] = {};  // [k]: loads that missed level k and all above it, and hit level k + 1
  uint64_t lines[kMaxCaches] = {};   // [k]: lines that moved between levels k and k + 1, in either direction
};

// One level: sets of lines, the most recently used first.
class Cache {
 public:
  explicit Cache(const CacheSettings& settings);

  struct Evicted {
    bool dirty = false;
    uint64_t line = 0;
  };

  // Uses a line if it is here. `prefetched` becomes whether this is the first use of a prefetched line.
  bool use(uint64_t line, bool write, bool* prefetched) {
    uint64_t* set = this->set(line);
    // By far the most accesses go to the line of the set that was used last.
    unsigned way = 0;
    while (way < ways_ && (set[way] >> kFlagBits) != line) ++way;
    if (way == ways_) return false;
    uint64_t entry = set[way];
    *prefetched = (entry & kPrefetched) != 0;
    entry = (entry & ~kPrefetched) | (write ? kDirty : 0);
    for (; way > 0; --way) set[way] = set[way - 1];
    set[0] = entry;
    return true;
  }

  bool has(uint64_t line) const;
  // Takes a line that is not here as the most recently used one; the least recently used one leaves.
  Evicted take(uint64_t line, bool dirty, bool prefetched);
  // Marks a line dirty if it is here; its age stays.
  bool soil(uint64_t line);
  void clear();

 private:
  static constexpr unsigned kFlagBits = 2;
  static constexpr uint64_t kDirty = 1, kPrefetched = 2, kEmpty = ~uint64_t{0};

  uint64_t* set(uint64_t line) {
    return entries_.data() + (mask_ != 0 ? line & mask_ : line % sets_) * ways_;
  }

  uint64_t sets_, mask_;  // the mask is zero if the number of sets is no power of two
  unsigned ways_;
  std::vector<uint64_t> entries_;
};

// Finds streams of lines at equal distances among misses. A stream starts with three misses at equal distances, and is
// followed until others push it out. Like most hardware, it stays inside a page.
class Prefetcher {
 public:
  Prefetcher(unsigned streams, unsigned degree, unsigned lines_per_page);

  // Told of a miss, or of the first use of a prefetched line; gives the lines to fetch.
  const std::vector<uint64_t>& train(uint64_t line, bool missed);
  void clear();

 private:
  struct Stream {
    uint64_t next = ~uint64_t{0};
    int64_t stride = 0;
    uint64_t used = 0;
  };

  int64_t stride_to(uint64_t line) const;
  void fetch_ahead(uint64_t line, int64_t stride);

  static constexpr unsigned kHistory = 16;  // misses that are remembered
  static constexpr int64_t kReach = 32;     // longest stride, in lines
  static constexpr uint64_t kNone = uint64_t{1} << 63;  // far from every line, and from what precedes line 0

  unsigned degree_, lines_per_page_;
  uint64_t time_ = 0;
  std::vector<Stream> streams_;
  uint64_t history_[kHistory];
  unsigned newest_ = 0;
  std::vector<uint64_t> ahead_;
};

// All levels of one core.
class Caches {
 public:
  explicit Caches(const Settings& settings);

  // One access to one line. True if it was a plain hit of the first level: the same again would change nothing.
  bool access(uint64_t line, bool write, Traffic* traffic) {
    bool prefetched = false;
    if (levels_[0].use(line, write, &prefetched) && !prefetched) return true;
    after(line, write, !prefetched, traffic);
    return false;
  }

  // Brings a line into all levels, unseen by the prefetcher.
  void warm(uint64_t line);
  void clear();
  // Lines that the largest level holds, twice: those used last, of which some push out others in their set.
  uint64_t lines() const { return 2 * lines_; }

 private:
  void after(uint64_t line, bool write, bool missed, Traffic* traffic);
  unsigned fetch(uint64_t line, bool write, bool prefetched, Traffic* traffic);
  void take(unsigned level, uint64_t line, bool dirty, bool prefetched, Traffic* traffic);

  std::vector<Cache> levels_;
  Prefetcher prefetcher_;
  uint64_t lines_;
};

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_CACHE_H_
