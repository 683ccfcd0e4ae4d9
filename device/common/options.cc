#include "options.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iostream>

namespace tvmfbnet {

int run_program(int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}

long parse_number(const std::string& what, const std::string& text, long low, long high) {
  char* end = nullptr;
  errno = 0;
  long value = std::strtol(text.c_str(), &end, 10);
  // strtol itself would take blanks and a plus sign before it.
  bool plain = !text.empty() && text.find_first_not_of("0123456789", text[0] == '-' ? 1 : 0) == std::string::npos;
  if (!plain || *end != '\0' || errno != 0 || value < low || value > high) {
    throw UsageError(what + " is '" + text + "': a whole number from " + std::to_string(low) + " to " +
                     std::to_string(high) + " is needed");
  }
  return value;
}

std::pair<std::string, int> parse_address(const std::string& what, const std::string& text) {
  size_t colon = text.rfind(':');
  bool bracketed = !text.empty() && text[0] == '[';
  std::string host = text.substr(0, colon == std::string::npos ? 0 : colon);
  if (bracketed && host.size() > 2 && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.empty() || host.find_first_of(":[] \t\n") != std::string::npos) {
    throw UsageError(what + " is '" + text + "': write HOST:PORT, or [ADDRESS]:PORT for IPv6");
  }
  return {host, static_cast<int>(parse_number(what + "'s port", text.substr(colon + 1), 1, 65535))};
}

Options::Options(int argc, char** argv, const std::set<std::string>& with_value, const std::set<std::string>& flags) {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    std::string name = word.rfind("--", 0) == 0 ? word.substr(2) : "";
    if (flags.count(name) != 0) {
      values_[name] = "yes";
    } else if (with_value.count(name) != 0) {
      if (i + 1 >= argc) throw UsageError("option " + word + " needs a value");
      values_[name] = argv[++i];
    } else {
      throw UsageError("unknown option '" + word + "'; --help lists what there is");
    }
  }
}

std::string Options::text(const std::string& name, const std::string& fallback) const {
  auto found = values_.find(name);
  return found == values_.end() ? fallback : found->second;
}

long Options::number(const std::string& name, long fallback, long low, long high) const {
  return has(name) ? parse_number("--" + name, values_.at(name), low, high) : fallback;
}

std::vector<int> parse_cores(const std::string& text) {
  std::set<int> cores;
  size_t start = 0;
  while (start <= text.size()) {
    size_t end = std::min(text.find(',', start), text.size());
    std::string part = text.substr(start, end - start);
    size_t dash = part.find('-');
    long first = parse_number("a core", part.substr(0, dash), 0, CPU_SETSIZE - 1);
    long last = dash == std::string::npos ? first : parse_number("a core", part.substr(dash + 1), 0, CPU_SETSIZE - 1);
    if (last < first) {
      throw UsageError("cores '" + part + "' run backwards: write " + std::to_string(last) + "-" + std::to_string(first));
    }
    for (long core = first; core <= last; ++core) cores.insert(static_cast<int>(core));
    start = end + 1;
  }
  return {cores.begin(), cores.end()};
}

std::string format_cores(const std::vector<int>& cores) {
  std::string result;
  for (size_t i = 0; i < cores.size();) {
    size_t end = i;
    while (end + 1 < cores.size() && cores[end + 1] == cores[end] + 1) ++end;
    if (!result.empty()) result += ",";
    result += std::to_string(cores[i]);
    if (end > i) result += "-" + std::to_string(cores[end]);
    i = end + 1;
  }
  return result;
}

std::vector<int> allowed_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  }
  return cores;
}

void apply_threads(long threads, const std::vector<int>& cores) {
  setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
  if (cores.empty()) return;
  std::vector<int> before = allowed_cores();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) CPU_SET(core, &set);
  // The kernel drops cores that do not exist without a word, so ask what came of it.
  if (sched_setaffinity(0, sizeof(set), &set) != 0 || allowed_cores() != cores) {
    throw UsageError("not all of the cores " + format_cores(cores) + " can be used here; this process may use " +
                     format_cores(before));
  }
  // TVM would bind its threads to the fastest cores that it finds, whatever the mask says.
  setenv("TVM_BIND_THREADS", "0", 1);
}

}  // namespace tvmfbnet
