// What can be read about this device and this program, as JSON: versions, cores and threads in force, governor, temperature.
#ifndef TVMFBNET_DEVICE_COMMON_INFO_H_
#define TVMFBNET_DEVICE_COMMON_INFO_H_

#include <string>
#include <utility>
#include <vector>

namespace tvmfbnet {

// Names and values, in the order in which they are told.
using Facts = std::vector<std::pair<std::string, std::string>>;

// From now on this process tells of a simulated device of this model, and nothing of the machine that it runs on.
void simulate_device(const std::string& model);

// One JSON object, `more` at its end; what is not readable is left out.
std::string device_info(const Facts& more = {});

// A string as JSON, quotes included.
std::string json_quote(const std::string& text);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_INFO_H_
