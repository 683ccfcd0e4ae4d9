#include "log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <map>

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

void log_limited(const std::string& kind, const std::string& message, const char* level) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLines = 5;
  struct Window {
    Clock::time_point end;
    int lines = 0;
    long left_out = 0;
  };
  static std::map<std::string, Window> windows;  // of one thread: the server has no other
  Window& window = windows[kind];
  if (Clock::now() >= window.end) {
    if (window.left_out > 0) {
      log_line(level, std::to_string(window.left_out) + " more lines like the following were left out");
    }
    window = {Clock::now() + std::chrono::seconds(10), 0, 0};
  }
  if (++window.lines <= kLines) {
    log_line(level, message);
  } else {
    ++window.left_out;
  }
}

std::string printable(const std::string& text, size_t limit) {
  std::string result;
  for (char c : text.substr(0, limit)) result += (c >= 0x20 && c < 0x7f) ? c : '?';
  return text.size() > limit ? result + "..." : result;
}

}  // namespace tvmfbnet
