// What can be read about this device and this program, as JSON: versions, cores, governor, frequency, temperature.
#ifndef TVMFBNET_DEVICE_COMMON_INFO_H_
#define TVMFBNET_DEVICE_COMMON_INFO_H_

#include <string>

namespace tvmfbnet {

// One JSON object; what is not readable is left out.
std::string device_info();

// A string as JSON, quotes included.
std::string json_quote(const std::string& text);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_INFO_H_
