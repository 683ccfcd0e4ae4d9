// What the plugin is told about a core: caches, memory, prefetcher, clock rate. Given as `name=value` arguments.
#ifndef TVMFBNET_DEVICE_SIMULATOR_SETTINGS_H_
#define TVMFBNET_DEVICE_SIMULATOR_SETTINGS_H_

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace tvmfbnet::simulator {

constexpr unsigned kMaxCaches = 4;

struct SettingsError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct CacheSettings {
  uint64_t size_kb = 0;
  unsigned ways = 0, line_bytes = 0;
  double latency_cycles = 0;   // load to use
  double bytes_per_cycle = 0;  // what it gives to the level above it
};

struct Settings {
  double frequency_ghz = 1;
  double overlap = 0;                 // share of a miss's latency that the core hides
  std::vector<CacheSettings> caches;  // from the first level on
  double memory_ns = 0, memory_gbps = 0;
  unsigned streams = 0, degree = 0;  // of the prefetcher: how many it follows, how many lines it fetches ahead
  std::string server, mailbox, summary;
  unsigned hottest = 40;  // blocks in the summary

  unsigned line_bytes() const { return caches.front().line_bytes; }
};

// SettingsError for what it does not know, lacks or cannot be.
Settings read_settings(int count, const char* const* arguments);

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_SETTINGS_H_
