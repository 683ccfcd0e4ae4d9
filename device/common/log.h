// One line a happening on stderr, with the time: what `tvmfbnet device logs` shows.
#ifndef TVMFBNET_DEVICE_COMMON_LOG_H_
#define TVMFBNET_DEVICE_COMMON_LOG_H_

#include <string>

namespace tvmfbnet {

void log_info(const std::string& message);
void log_warning(const std::string& message);

// Text from outside as it may stand in a log line: control characters replaced, length limited.
std::string printable(const std::string& text, size_t limit = 80);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_LOG_H_
