// Turns counts into time: what blocks cost by the core's scheduling model, and what their accesses cost by its caches.
#ifndef TVMFBNET_DEVICE_SIMULATOR_TIMING_H_
#define TVMFBNET_DEVICE_SIMULATOR_TIMING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "blocks.h"
#include "settings.h"

namespace tvmfbnet::simulator {

// Time is summed in whole units of 2^-16 cycles, so that the order of its summands makes no difference.
constexpr double kUnitsPerCycle = 65536;

// Cycles of one execution of each block in a steady loop, NaN for one that the core's model does not know.
using CycleSource = std::function<std::vector<double>(const std::vector<std::string>& blocks)>;

class Timing {
 public:
  // Without a source, each instruction takes one cycle.
  Timing(const Settings& settings, CycleSource source);

  // Adds the time of what the thread did since the last call to its clock and its costs. Throws what the source throws.
  void advance(Thread* thread);

  double milliseconds(int64_t units) const;
  // Executions of blocks that the core's model does not know: their instructions took one cycle each.
  uint64_t unmodelled() const { return unmodelled_; }

 private:
  struct Piece;
  void join(std::vector<Piece>* pieces) const;
  void find_cycles(std::vector<Piece>* pieces);

  int64_t stall_units_[kMaxCaches], line_units_[kMaxCaches];  // of a load that misses level k, of a line that leaves it
  double frequency_ghz_;
  unsigned levels_;
  CycleSource source_;
  std::unordered_map<std::string, double> cycles_;
  uint64_t unmodelled_ = 0;
};

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_TIMING_H_
