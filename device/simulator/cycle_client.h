// Asks the cycle server what blocks take on the simulated core.
#ifndef TVMFBNET_DEVICE_SIMULATOR_CYCLE_CLIENT_H_
#define TVMFBNET_DEVICE_SIMULATOR_CYCLE_CLIENT_H_

#include <string>
#include <vector>

namespace tvmfbnet::simulator {

// One request over the Unix socket at `path`: a count, then each block's size and bytes; the answer is as many doubles.
// All numbers are little endian. Throws std::runtime_error, which says what is wrong, if no answer comes.
std::vector<double> ask_cycles(const std::string& path, const std::vector<std::string>& blocks);

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_CYCLE_CLIENT_H_
