#include "settings.h"

#include <cmath>
#include <cstdlib>

namespace tvmfbnet::simulator {
namespace {

double number(const std::string& name, const std::string& text, double low, double high) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= low && value <= high)) {
    throw SettingsError(name + " is '" + text + "', which is no number in its range");
  }
  return value;
}

uint64_t whole(const std::string& name, const std::string& text, double low, double high) {
  double value = number(name, text, low, high);
  if (value != std::floor(value)) throw SettingsError(name + " is '" + text + "', which is no whole number");
  return static_cast<uint64_t>(value);
}

std::vector<std::string> split(const std::string& name, const std::string& text, size_t parts) {
  std::vector<std::string> result;
  size_t begin = 0;
  for (size_t colon = text.find(':'); colon != std::string::npos; colon = text.find(':', begin)) {
    result.push_back(text.substr(begin, colon - begin));
    begin = colon + 1;
  }
  result.push_back(text.substr(begin));
  if (result.size() != parts) throw SettingsError(name + " is '" + text + "', not " + std::to_string(parts) + " values");
  return result;
}

CacheSettings cache(const std::string& name, const std::string& text) {
  std::vector<std::string> parts = split(name, text, 5);
  CacheSettings result;
  result.size_kb = whole(name, parts[0], 1, 1 << 20);
  result.ways = static_cast<unsigned>(whole(name, parts[1], 1, 64));
  result.line_bytes = static_cast<unsigned>(whole(name, parts[2], 16, 1024));
  result.latency_cycles = number(name, parts[3], 0, 1e4);
  result.bytes_per_cycle = number(name, parts[4], 1e-3, 1e4);
  if ((result.line_bytes & (result.line_bytes - 1)) != 0) throw SettingsError(name + "'s line is no power of two");
  if (result.size_kb * 1024 % (static_cast<uint64_t>(result.ways) * result.line_bytes) != 0) {
    throw SettingsError(name + " is '" + text + "', whose size is no whole number of sets");
  }
  return result;
}

void check(const Settings& settings) {
  if (settings.caches.empty()) throw SettingsError("l1 is needed: SIZE_KB:WAYS:LINE_BYTES:LATENCY_CYCLES:BYTES_PER_CYCLE");
  for (size_t level = 0; level < settings.caches.size(); ++level) {
    std::string name = "l" + std::to_string(level + 1);
    if (settings.caches[level].size_kb == 0) throw SettingsError(name + " is needed, as a level below it is given");
    if (settings.caches[level].line_bytes != settings.line_bytes()) throw SettingsError(name + "'s line is not l1's");
  }
  if (settings.memory_gbps == 0) throw SettingsError("memory is needed: LATENCY_NS:GBPS");
}

}  // namespace

Settings read_settings(int count, const char* const* arguments) {
  Settings settings;
  for (int i = 0; i < count; ++i) {
    std::string argument = arguments[i];
    size_t equals = argument.find('=');
    if (equals == std::string::npos) throw SettingsError("'" + argument + "' is not of the form name=value");
    std::string name = argument.substr(0, equals), text = argument.substr(equals + 1);
    if (name == "frequency_ghz") {
      settings.frequency_ghz = number(name, text, 1e-3, 100);
    } else if (name == "overlap") {
      settings.overlap = number(name, text, 0, 1);
    } else if (name.size() == 2 && name[0] == 'l' && name[1] >= '1' && name[1] < static_cast<char>('1' + kMaxCaches)) {
      size_t level = static_cast<size_t>(name[1] - '1');
      if (settings.caches.size() <= level) settings.caches.resize(level + 1);
      settings.caches[level] = cache(name, text);
    } else if (name == "memory") {
      std::vector<std::string> parts = split(name, text, 2);
      settings.memory_ns = number(name, parts[0], 0, 1e5);
      settings.memory_gbps = number(name, parts[1], 1e-3, 1e5);
    } else if (name == "prefetch") {
      std::vector<std::string> parts = split(name, text, 2);
      settings.streams = static_cast<unsigned>(whole(name, parts[0], 0, 256));
      settings.degree = static_cast<unsigned>(whole(name, parts[1], 0, 64));
    } else if (name == "server") {
      settings.server = text;
    } else if (name == "mailbox") {
      settings.mailbox = text;
    } else if (name == "summary") {
      settings.summary = text;
    } else if (name == "hottest") {
      settings.hottest = static_cast<unsigned>(whole(name, text, 0, 1e6));
    } else {
      throw SettingsError("'" + name + "' is no setting of the simulator");
    }
  }
  check(settings);
  return settings;
}

}  // namespace tvmfbnet::simulator
