// Runs a trace of accesses through the cache model and prints what it counted: `R ADDRESS` and `W ADDRESS` (hexadecimal)
// a line on standard input; the settings as the plugin takes them. Addresses are used as they are, without numbering
// pages. Prints each access's outcome, then the traffic between levels. For tests, and to try a core's caches.

#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "cache.h"

namespace tvmfbnet::simulator {
namespace {

int run(int argc, char** argv) {
  Settings settings = read_settings(argc - 1, argv + 1);
  Caches caches(settings);
  size_t levels = settings.caches.size();
  Traffic traffic;
  for (std::string line; std::getline(std::cin, line);) {
    char kind = 0;
    uint64_t address = 0;
    if (std::sscanf(line.c_str(), "%c %" SCNx64, &kind, &address) != 2 || (kind != 'R' && kind != 'W')) {
      throw SettingsError("'" + line + "' is no access");
    }
    Traffic before = traffic;
    bool plain = caches.access(address / settings.line_bytes(), kind == 'W', &traffic);
    size_t level = 0;
    while (level < levels && traffic.misses[level] == before.misses[level]) ++level;
    if (plain) {
      std::cout << "hit\n";
    } else if (level < levels) {
      std::cout << (level + 1 < levels ? "l" + std::to_string(level + 2) : std::string("memory")) << "\n";
    } else {
      std::cout << (kind == 'W' && traffic.lines[0] != before.lines[0] ? "allocated" : "prefetched") << "\n";
    }
  }
  std::cout << "misses";
  for (size_t level = 0; level < levels; ++level) std::cout << " " << traffic.misses[level];
  std::cout << "\nlines";
  for (size_t level = 0; level < levels; ++level) std::cout << " " << traffic.lines[level];
  std::cout << std::endl;
  return 0;
}

}  // namespace
}  // namespace tvmfbnet::simulator

int main(int argc, char** argv) {
  try {
    return tvmfbnet::simulator::run(argc, argv);
  } catch (const tvmfbnet::simulator::SettingsError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  }
}
