// Where time went: a JSON file for those who write kernels.
#ifndef TVMFBNET_DEVICE_SIMULATOR_SUMMARY_H_
#define TVMFBNET_DEVICE_SIMULATOR_SUMMARY_H_

#include <string>
#include <vector>

#include "blocks.h"
#include "settings.h"
#include "timing.h"

namespace tvmfbnet::simulator {

// Sets which file a block's code is mapped from: the emulated program's addresses are this process's. To be called when
// the block is translated, as libraries come and go.
void locate(Block* block);

// The costs of all threads together, and the hottest blocks with their code. `%p` in the file's name is the process.
// Throws std::runtime_error if the file cannot be written.
void write_summary(const Settings& settings, const Timing& timing, const std::vector<const Thread*>& threads);

}  // namespace tvmfbnet::simulator

#endif  // TVMFBNET_DEVICE_SIMULATOR_SUMMARY_H_
