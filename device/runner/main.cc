// Runs and times a compiled package on the device itself: no Python, no RPC, no network.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "../common/info.h"
#include "../common/options.h"
#include "../common/plugins.h"
#include "net.h"
#include "package.h"

namespace tvmfbnet {
namespace {

constexpr const char* kHelp = R"(tvmfbnet-run: runs a compiled package and times it.
  --package DIR        the folder that `tvmfbnet compile` wrote (package.json and the library)
  --input FILE         raw little-endian values of the package's input_dtype in the input's shape; zeros if not given
  --output FILE        where the raw output of that type goes; not written if not given. Of several outputs each goes to
                       a file of its own: FILE.NAME, with the names of package.json
  --repeats N          timed repeats; 0 only runs the net once; default 10
  --min-repeat-ms MS   each repeat calls the net for at least this long; default 20
  --warmup N           calls before the first repeat; default 3
  --sustained SECONDS  afterwards run without a pause for so long, to see what is left when the device is warm
  --threads N          worker threads of TVM's runtime; default 1
  --cores LIST         cores to run on, such as 4-7
Prints one JSON object: outputs (values of all), output_values (of each by name), latency_ms (median), min_ms, p10_ms,
p90_ms, repeats_ms, with --sustained a latency for every second and the median of the last quarter, and the device.
)";

std::vector<char> read_input(const std::string& file, int64_t wanted) {
  std::vector<char> bytes(static_cast<size_t>(wanted), 0);
  if (file.empty()) return bytes;
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  if (!stream) throw UsageError("cannot read " + file);
  if (static_cast<int64_t>(stream.tellg()) != wanted) {
    throw UsageError(file + " holds " + std::to_string(stream.tellg()) + " bytes, but the net's input takes " +
                     std::to_string(wanted));
  }
  stream.seekg(0);
  stream.read(bytes.data(), wanted);
  if (!stream) throw UsageError("cannot read " + file);
  return bytes;
}

void write_file(const std::string& file, const std::vector<char>& bytes) {
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  if (!stream) {
    std::remove(file.c_str());
    throw UsageError("cannot write " + file + ": " + std::strerror(errno));
  }
}

void write_outputs(const std::string& file, const Package& package, const std::vector<std::vector<char>>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    write_file(outputs.size() == 1 ? file : file + "." + package.outputs[i], outputs[i]);
  }
}

double call_ms(Net* net, long calls) {
  auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < calls; ++i) net->call();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// Milliseconds a call, one value a repeat.
std::vector<double> time_net(Net* net, long warmup, long repeats, double min_repeat_ms) {
  for (long i = 0; i < warmup; ++i) net->call();
  std::vector<double> found;
  long calls = 1;
  while (static_cast<long>(found.size()) < repeats) {
    double elapsed = call_ms(net, calls);
    if (elapsed >= min_repeat_ms) {
      found.push_back(elapsed / static_cast<double>(calls));
    } else {
      double wanted = static_cast<double>(calls) * min_repeat_ms / std::max(elapsed, 1e-3);
      calls = std::max(calls + 1, static_cast<long>(std::ceil(1.05 * std::min(wanted, 10.0 * static_cast<double>(calls)))));
    }
  }
  return found;
}

// Milliseconds a call, one value for every second of running without a pause.
std::vector<double> run_sustained(Net* net, long seconds) {
  std::vector<double> found;
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (std::chrono::steady_clock::now() < end) {
    for (double value : time_net(net, 0, 1, 1000)) found.push_back(value);
  }
  return found;
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  double place = share * static_cast<double>(values.size() - 1);
  auto low = static_cast<size_t>(place);
  auto high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
}

void print_list(const char* name, const std::vector<double>& values) {
  std::cout << ", \"" << name << "\": [";
  for (size_t i = 0; i < values.size(); ++i) std::cout << (i == 0 ? "" : ", ") << values[i];
  std::cout << "]";
}

void print_result(const Package& package, const std::vector<double>& times, const std::vector<double>& sustained,
                  const std::vector<std::vector<char>>& outputs) {
  size_t total = 0;
  std::string each;
  for (size_t i = 0; i < outputs.size(); ++i) {
    size_t values = outputs[i].size() / static_cast<size_t>(package.value_bytes());
    total += values;
    each += (i == 0 ? "" : ", ") + json_quote(package.outputs[i]) + ": " + std::to_string(values);
  }
  std::cout << "{\"arch\": " << json_quote(package.arch) << ", \"outputs\": " << total << ", \"output_values\": {" << each
            << "}";
  if (!times.empty()) {
    std::cout << ", \"latency_ms\": " << quantile(times, 0.5) << ", \"min_ms\": " << quantile(times, 0)
              << ", \"p10_ms\": " << quantile(times, 0.1) << ", \"p90_ms\": " << quantile(times, 0.9);
    print_list("repeats_ms", times);
  }
  if (!sustained.empty()) {
    std::vector<double> last(sustained.end() - static_cast<long>((sustained.size() + 3) / 4), sustained.end());
    std::cout << ", \"sustained_ms\": " << quantile(last, 0.5);
    print_list("sustained_by_second_ms", sustained);
  }
  std::cout << ", \"device\": " << device_info() << "}" << std::endl;
}

int run(int argc, char** argv) {
  Options options(argc, argv,
                  {"package", "input", "output", "repeats", "min-repeat-ms", "warmup", "sustained", "threads", "cores"}, {"help"});
  if (options.has("help")) {
    std::cout << kHelp;
    return 0;
  }
  if (!options.has("package")) throw UsageError("--package is needed; --help lists the options");
  apply_threads(options.number("threads", 1, 1, 1024),
                options.has("cores") ? parse_cores(options.text("cores", "")) : std::vector<int>{});
  long repeats = options.number("repeats", 10, 0, 100000), warmup = options.number("warmup", 3, 0, 100000);
  double min_repeat_ms = static_cast<double>(options.number("min-repeat-ms", 20, 1, 60000));
  long sustained = options.number("sustained", 0, 0, 86400);
  load_plugins();
  Package package = load_package(options.text("package", ""));
  std::vector<char> input = read_input(options.text("input", ""), package.input_values * package.value_bytes());
  Net net(package);
  net.set_input(input);
  net.call();
  std::vector<std::vector<char>> outputs = net.outputs();
  if (options.has("output")) write_outputs(options.text("output", ""), package, outputs);
  std::vector<double> times = time_net(&net, repeats > 0 ? warmup : 0, repeats, min_repeat_ms);
  print_result(package, times, run_sustained(&net, sustained), outputs);
  return 0;
}

}  // namespace
}  // namespace tvmfbnet

int main(int argc, char** argv) { return tvmfbnet::run_program(tvmfbnet::run, argc, argv); }
