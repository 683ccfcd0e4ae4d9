#include "info.h"

#include <sys/utsname.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "options.h"

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif

namespace tvmfbnet {
namespace {

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line, '\n');
  while (!line.empty() && (line.back() == '\0' || line.back() == ' ')) line.pop_back();
  return line;
}

// The first of the names that /proc/cpuinfo has; ARM kernels give part numbers in place of a name.
std::string cpuinfo(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
      size_t colon = line.find(": ");
      if (line.rfind(name, 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "";
}

std::string model() {
#ifdef __ANDROID__
  char value[PROP_VALUE_MAX] = "";
  if (__system_property_get("ro.product.model", value) > 0) return value;
#endif
  std::string board = read_line("/proc/device-tree/model");
  return board.empty() ? cpuinfo({"model name", "Hardware", "Model"}) : board;
}

// What this process simulates, in place of what it runs on; empty where it simulates nothing.
std::string simulated_model;

std::string ffi_version() {
  TVMFFIVersion version;
  TVMFFIGetVersion(&version);
  return std::to_string(version.major) + "." + std::to_string(version.minor) + "." + std::to_string(version.patch);
}

// Nothing of the machine that simulates: it must not make a difference.
Facts simulated_facts(const char* threads) {
  return {
      {"server", "tvmfbnet " TVMFBNET_VERSION},
      {"tvm_version", TVMFBNET_TVM_VERSION},
      {"ffi_version", ffi_version()},
      {"system", "Linux"},
      {"machine", "aarch64"},
      {"userland_bits", std::to_string(8 * sizeof(void*))},
      {"model", simulated_model},
      {"simulated", "yes"},
      {"cores", "1"},
      {"allowed_cores", "0"},
      {"threads", threads == nullptr ? "" : threads},
  };
}

Facts real_facts(const char* threads) {
  utsname system{};
  uname(&system);
  std::vector<int> cores = allowed_cores();
  std::string cpu = "/sys/devices/system/cpu/cpu" + std::to_string(cores.empty() ? 0 : cores.front()) + "/cpufreq/";
  return {
      {"server", "tvmfbnet " TVMFBNET_VERSION},
      {"tvm_version", TVMFBNET_TVM_VERSION},
      {"ffi_version", ffi_version()},
      {"system", system.sysname},
      {"kernel", system.release},
      {"machine", system.machine},
      // A 64-bit kernel may carry a 32-bit userland: what counts is what this program is.
      {"userland_bits", std::to_string(8 * sizeof(void*))},
      {"page_size", std::to_string(sysconf(_SC_PAGESIZE))},
      {"model", model()},
      {"cpu_part", cpuinfo({"CPU part"})},
      {"cores", std::to_string(sysconf(_SC_NPROCESSORS_CONF))},
      {"allowed_cores", format_cores(cores)},
      {"threads", threads == nullptr ? "" : threads},
      {"governor", read_line(cpu + "scaling_governor")},
      {"frequency_khz", read_line(cpu + "scaling_cur_freq")},
      {"max_frequency_khz", read_line(cpu + "cpuinfo_max_freq")},
      {"temperature_millicelsius", read_line("/sys/class/thermal/thermal_zone0/temp")},
  };
}

}  // namespace

std::string json_quote(const std::string& text) {
  std::string result = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      result += escaped;
    } else {
      result += static_cast<char>(c);
    }
  }
  return result + "\"";
}

void simulate_device(const std::string& model) { simulated_model = model; }

std::string device_info(const Facts& more) {
  const char* threads = std::getenv("TVM_NUM_THREADS");
  Facts found = simulated_model.empty() ? real_facts(threads) : simulated_facts(threads);
  found.insert(found.end(), more.begin(), more.end());
  std::string result;
  for (const auto& [name, value] : found) {
    if (!value.empty()) result += (result.empty() ? "{" : ", ") + json_quote(name) + ": " + json_quote(value);
  }
  return result + "}";
}

}  // namespace tvmfbnet
