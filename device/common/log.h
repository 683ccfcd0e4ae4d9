// One line a happening on stderr, with the time: what `tvmfbnet device logs` shows.
#ifndef TVMFBNET_DEVICE_COMMON_LOG_H_
#define TVMFBNET_DEVICE_COMMON_LOG_H_

#include <string>

namespace tvmfbnet {

void log_info(const std::string& message);
void log_warning(const std::string& message);

// A line that a stranger can cause: a few of one kind in ten seconds, and the number of those left out.
void log_limited(const std::string& kind, const std::string& message, const char* level = "warning");

// Text from outside as it may stand in a log line: control characters replaced, length limited.
std::string printable(const std::string& text, size_t limit = 80);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_LOG_H_
