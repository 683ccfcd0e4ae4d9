#include "timing.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tvmfbnet::simulator {
namespace {

// Longest code that is given to the core's model as one block.
constexpr size_t kLongestBlock = 32768;

}  // namespace

// A block with its activity, and with the blocks that it was joined with.
struct Timing::Piece {
  const Block* block;
  Activity activity;
  Piece* follower = nullptr;    // the block behind this one, if it always followed
  Piece* last = nullptr;        // the end of that chain
  size_t bytes = 0;             // of the chain from here on
  uint64_t entries = 0;         // executions that did not come from a block joined with this one
  uint32_t instructions = 0;    // of the chain from here on
  int64_t compute = 0;          // units
  int64_t total = 0;            // of a chain's end: all units of the chain but those of bandwidth
  uint64_t lines[kMaxCaches] = {};

  std::string code() const {
    std::string code;
    for (const Piece* piece = this; piece != nullptr; piece = piece->follower) code += piece->block->bytes;
    return code;
  }
};

Timing::Timing(const Settings& settings, CycleSource source)
    : frequency_ghz_(settings.frequency_ghz),
      levels_(static_cast<unsigned>(settings.caches.size())),
      source_(std::move(source)) {
  const std::vector<CacheSettings>& caches = settings.caches;
  for (unsigned level = 0; level < levels_; ++level) {
    bool in_memory = level + 1 == levels_;
    double latency = in_memory ? settings.memory_ns * frequency_ghz_ : caches[level + 1].latency_cycles;
    double bytes_per_cycle = in_memory ? settings.memory_gbps / frequency_ghz_ : caches[level + 1].bytes_per_cycle;
    // The first level's latency is part of what the core's model gives for a load.
    double stall = (1 - settings.overlap) * std::max(0.0, latency - caches[0].latency_cycles);
    stall_units_[level] = std::llround(stall * kUnitsPerCycle);
    line_units_[level] = std::llround(settings.line_bytes() / bytes_per_cycle * kUnitsPerCycle);
  }
}

double Timing::milliseconds(int64_t units) const {
  return static_cast<double>(units) / kUnitsPerCycle / frequency_ghz_ * 1e-6;
}

// The emulator ends blocks where no branch is: at a page's border, or where it has translated enough. A block that the
// code right behind it followed each time is one block with it for the core, which predicts a branch that is never taken.
void Timing::join(std::vector<Piece>* pieces) const {
  std::unordered_map<const Block*, Piece*> by_block;
  for (Piece& piece : *pieces) by_block[piece.block] = &piece;
  // From the highest address down, so that a chain's end comes before what is joined with it.
  std::vector<Piece*> order;
  for (Piece& piece : *pieces) order.push_back(&piece);
  std::sort(order.begin(), order.end(), [](const Piece* a, const Piece* b) { return a->block->begin > b->block->begin; });
  for (Piece* piece : order) {
    piece->last = piece;
    piece->bytes = piece->block->bytes.size();
    piece->instructions = piece->block->instructions;
    piece->entries = piece->activity.executions;
    if (piece->activity.falls != piece->activity.executions) continue;
    auto next = by_block.find(piece->activity.follower);
    if (next == by_block.end() || piece->bytes + next->second->bytes > kLongestBlock) continue;
    piece->follower = next->second;
    piece->last = piece->follower->last;
    piece->bytes += piece->follower->bytes;
    piece->instructions += piece->follower->instructions;
  }
  for (Piece* piece : order) {
    if (piece->follower != nullptr) piece->follower->entries -= piece->activity.executions;
  }
}

void Timing::find_cycles(std::vector<Piece>* pieces) {
  std::vector<std::string> unknown;
  std::vector<std::pair<Piece*, std::string>> entered;
  for (Piece& piece : *pieces) {
    if (piece.entries == 0) continue;
    entered.emplace_back(&piece, piece.code());
    const std::string& code = entered.back().second;
    if (source_ && cycles_.try_emplace(code, std::nan("")).second) unknown.push_back(code);
  }
  if (!unknown.empty()) {
    std::vector<double> answer;
    try {
      answer = source_(unknown);
    } catch (...) {
      for (const std::string& code : unknown) cycles_.erase(code);
      throw;
    }
    for (size_t i = 0; i < unknown.size(); ++i) cycles_[unknown[i]] = answer[i];
  }
  for (auto& [piece, code] : entered) {
    double cycles = source_ ? cycles_[code] : std::nan("");
    if (std::isnan(cycles)) {
      if (source_) unmodelled_ += piece->entries;
      cycles = piece->instructions;
    }
    piece->compute = std::llround(cycles * kUnitsPerCycle) * static_cast<int64_t>(piece->entries);
  }
}

void Timing::advance(Thread* thread) {
  std::vector<Piece> pieces;
  thread->take_activity([&pieces](const Block* block, const Activity& activity) {
    Piece piece;
    piece.block = block;
    piece.activity = activity;
    pieces.push_back(piece);
  });
  join(&pieces);
  find_cycles(&pieces);
  int64_t units = 0;
  for (Piece& piece : pieces) {
    Cost& cost = thread->costs[piece.block];
    cost.executions += piece.activity.executions;
    cost.compute += piece.compute;
    int64_t time = piece.compute;
    for (unsigned level = 0; level < levels_; ++level) {
      int64_t stalls = stall_units_[level] * static_cast<int64_t>(piece.activity.traffic.misses[level]);
      cost.stalls[level] += stalls;
      time += stalls;
      cost.traffic.misses[level] += piece.activity.traffic.misses[level];
      cost.traffic.lines[level] += piece.activity.traffic.lines[level];
      piece.last->lines[level] += piece.activity.traffic.lines[level];
    }
    piece.last->total += time;
    units += time;
  }
  // Transfers go on while the core computes: they cost what they take longer than the loop that causes them.
  for (Piece& piece : pieces) {
    if (piece.last != &piece) continue;
    int64_t longest = 0;
    for (unsigned level = 0; level < levels_; ++level) {
      longest = std::max(longest, line_units_[level] * static_cast<int64_t>(piece.lines[level]));
    }
    int64_t bandwidth = std::max<int64_t>(0, longest - piece.total);
    thread->costs[piece.block].bandwidth += bandwidth;
    units += bandwidth;
  }
  // Rounded here and not in the sum, so that an interval's length does not depend on when it began.
  thread->nanoseconds += std::llround(static_cast<double>(units) / kUnitsPerCycle / frequency_ghz_);
}

}  // namespace tvmfbnet::simulator
