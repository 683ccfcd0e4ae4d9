#include "summary.h"

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace tvmfbnet::simulator {
namespace {

std::string quote(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < ' ' ? '?' : c;
  }
  return result + '"';
}

std::string hex(const std::string& bytes) {
  std::string result;
  char digits[3];
  for (unsigned char byte : bytes) {
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    result += digits;
  }
  return result;
}

void add(Cost* sum, const Cost& cost) {
  sum->executions += cost.executions;
  sum->compute += cost.compute;
  sum->bandwidth += cost.bandwidth;
  for (unsigned level = 0; level < kMaxCaches; ++level) {
    sum->stalls[level] += cost.stalls[level];
    sum->traffic.misses[level] += cost.traffic.misses[level];
    sum->traffic.lines[level] += cost.traffic.lines[level];
  }
}

int64_t total(const Cost& cost) {
  int64_t sum = cost.compute + cost.bandwidth;
  for (int64_t stalls : cost.stalls) sum += stalls;
  return sum;
}

template <typename T>
std::string list(const T* values, size_t count, double scale) {
  std::ostringstream text;
  text.precision(12);
  for (size_t i = 0; i < count; ++i) text << (i == 0 ? "[" : ", ") << static_cast<double>(values[i]) * scale;
  return text.str() + "]";
}

std::string describe(const Cost& cost, size_t levels) {
  std::ostringstream text;
  text.precision(12);
  text << "\"cycles\": " << static_cast<double>(total(cost)) / kUnitsPerCycle
       << ", \"compute_cycles\": " << static_cast<double>(cost.compute) / kUnitsPerCycle
       << ", \"stall_cycles\": " << list(cost.stalls, levels, 1 / kUnitsPerCycle)
       << ", \"bandwidth_cycles\": " << static_cast<double>(cost.bandwidth) / kUnitsPerCycle
       << ", \"misses\": " << list(cost.traffic.misses, levels, 1)
       << ", \"lines\": " << list(cost.traffic.lines, levels, 1);
  return text.str();
}

std::string describe(const Block& block, const Cost& cost, size_t levels) {
  std::ostringstream text;
  text << "{\"address\": " << block.begin << ", \"instructions\": " << block.instructions
       << ", \"executions\": " << cost.executions << ", " << describe(cost, levels);
  if (!block.file.empty()) text << ", \"file\": " << quote(block.file) << ", \"offset\": " << block.offset;
  text << ", \"code\": \"" << hex(block.bytes) << "\"}";
  return text.str();
}

std::string file_name(std::string name) {
  size_t place = name.find("%p");
  if (place != std::string::npos) name.replace(place, 2, std::to_string(getpid()));
  return name;
}

}  // namespace

void locate(Block* block) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uint64_t begin = 0, end = 0, offset = 0;
    int name = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %*s %n", &begin, &end, &offset, &name) != 3 ||
        block->begin < begin || block->begin >= end) {
      continue;
    }
    block->file = line.substr(static_cast<size_t>(name));
    block->offset = block->begin - begin + offset;
    return;
  }
}

void write_summary(const Settings& settings, const Timing& timing, const std::vector<const Thread*>& threads) {
  std::unordered_map<const Block*, Cost> costs;
  Cost sum;
  uint64_t instructions = 0;
  std::ostringstream text;
  text.precision(12);
  text << "{\"frequency_ghz\": " << settings.frequency_ghz << ", \"thread_nanoseconds\": [";
  for (const Thread* thread : threads) {
    text << (thread == threads.front() ? "" : ", ") << thread->nanoseconds;
    for (const auto& [block, cost] : thread->costs) {
      add(&costs[block], cost);
      add(&sum, cost);
      instructions += block->instructions * cost.executions;
    }
  }
  size_t levels = settings.caches.size();
  text << "], \"instructions\": " << instructions << ", \"unmodelled_executions\": " << timing.unmodelled() << ", "
       << describe(sum, levels) << ", \"hottest\": [";
  std::vector<std::pair<const Block*, Cost>> hottest(costs.begin(), costs.end());
  std::sort(hottest.begin(), hottest.end(), [](const auto& a, const auto& b) {
    int64_t one = total(a.second), other = total(b.second);
    return one != other ? one > other : a.first->begin < b.first->begin;
  });
  if (hottest.size() > settings.hottest) hottest.resize(settings.hottest);
  for (const auto& [block, cost] : hottest) {
    text << (block == hottest.front().first ? "\n" : ",\n") << describe(*block, cost, levels);
  }
  text << "\n]}\n";
  std::string name = file_name(settings.summary);
  std::ofstream file(name);
  if (!(file << text.str() << std::flush)) throw std::runtime_error("cannot write the summary " + name);
}

}  // namespace tvmfbnet::simulator
