// A compiled package on disk: what its package.json says that the runner needs.
#ifndef TVMFBNET_DEVICE_RUNNER_PACKAGE_H_
#define TVMFBNET_DEVICE_RUNNER_PACKAGE_H_

#include <dlpack/dlpack.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tvmfbnet {

struct Package {
  std::string library;  // path
  std::string arch;
  std::string device;  // cpu, opencl or metal
  DLDataType type{kDLFloat, 32, 1};  // of the input and the outputs
  std::vector<std::string> outputs;  // their names, in order
  std::vector<int64_t> input_shape;
  int64_t input_values = 1;

  int64_t value_bytes() const { return type.bits / 8; }
};

// UsageError when the folder holds no whole package.
Package load_package(const std::string& folder);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_RUNNER_PACKAGE_H_
