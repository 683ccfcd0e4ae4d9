// Command line options of the device programs: `--name value` and `--flag`, checked against what a program knows.
#ifndef TVMFBNET_DEVICE_COMMON_OPTIONS_H_
#define TVMFBNET_DEVICE_COMMON_OPTIONS_H_

#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tvmfbnet {

// Something that the caller can mend: printed as one line, exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What main() does: runs the program, and turns its exceptions into one line on stderr and an exit code.
int run_program(int (*run)(int, char**), int argc, char** argv);

class Options {
 public:
  // Throws UsageError for an option that is in neither list or lacks its value.
  Options(int argc, char** argv, const std::set<std::string>& with_value, const std::set<std::string>& flags);

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  std::string text(const std::string& name, const std::string& fallback) const;
  // The value as a whole number between low and high; UsageError otherwise.
  long number(const std::string& name, long fallback, long low, long high) const;

 private:
  std::map<std::string, std::string> values_;
};

// Text as a whole number between low and high; `what` names it in the UsageError otherwise.
long parse_number(const std::string& what, const std::string& text, long low, long high);

// "host:port", an IPv6 address in brackets, as its two parts; UsageError, which names `what`, otherwise.
std::pair<std::string, int> parse_address(const std::string& what, const std::string& text);

// "0,4-7" as core numbers, in order, each once; UsageError when it is no such list.
std::vector<int> parse_cores(const std::string& text);

// The reverse: {0,4,5,6,7} as "0,4-7".
std::string format_cores(const std::vector<int>& cores);

// Cores that this process may run on.
std::vector<int> allowed_cores();

// Worker threads of TVM's runtime, and the cores that this process and its children run on (none given: all).
// Call before the first use of TVM. UsageError when this machine does not have the cores.
void apply_threads(long threads, const std::vector<int>& cores);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_OPTIONS_H_
