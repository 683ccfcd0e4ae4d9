#include "log.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace tvmfbnet {
namespace {

void log_line(const char* level, const std::string& message) {
  std::time_t now = std::time(nullptr);
  std::tm parts{};
  char when[32];
  gmtime_r(&now, &parts);
  std::strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &parts);
  std::fprintf(stderr, "%s [%d] %s %s\n", when, static_cast<int>(getpid()), level, message.c_str());
  std::fflush(stderr);
}

}  // namespace

void log_info(const std::string& message) { log_line("info", message); }
void log_warning(const std::string& message) { log_line("warning", message); }

std::string printable(const std::string& text, size_t limit) {
  std::string result;
  for (char c : text.substr(0, limit)) result += (c >= 0x20 && c < 0x7f) ? c : '?';
  return text.size() > limit ? result + "..." : result;
}

}  // namespace tvmfbnet
