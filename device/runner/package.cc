#include "package.h"

#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/string.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "../common/options.h"

namespace tvmfbnet {
namespace {

namespace json = tvm::ffi::json;
using tvm::ffi::String;

template <typename T>
T field(const json::Object& object, const char* name, const std::string& file) {
  auto found = object.find(String(name));
  if (found == object.end()) throw UsageError(file + " lacks '" + name + "'");
  auto value = (*found).second.try_cast<T>();
  if (!value.has_value()) throw UsageError(file + ": '" + name + "' is of the wrong kind");
  return *value;
}

std::string device_of(const std::string& kind, const std::string& file) {
  if (kind == "llvm" || kind == "c") return "cpu";
  if (kind == "opencl" || kind == "metal") return kind;
  throw UsageError(file + ": this program cannot run nets for '" + kind + "'");
}

}  // namespace

Package load_package(const std::string& folder) {
  std::string file = folder + "/package.json";
  std::ifstream stream(file);
  if (!stream) throw UsageError("cannot read " + file + ": give --package the folder that `tvmfbnet compile` wrote");
  std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  String problem;
  json::Value value = json::Parse(text, &problem);
  auto object = value.try_cast<json::Object>();
  if (problem.size() != 0 || !object.has_value()) throw UsageError(file + " is not a JSON object");
  Package package;
  package.library = folder + "/" + std::string(field<String>(*object, "library", file));
  package.arch = std::string(field<String>(*object, "arch", file));
  auto compiled_for = field<json::Object>(*object, "tvm_target", file);
  package.device = device_of(std::string(field<String>(compiled_for, "kind", file)), file);
  for (const json::Value& size : field<json::Array>(*object, "input_shape", file)) {
    auto number = size.try_cast<int64_t>();
    if (!number.has_value() || *number < 1) throw UsageError(file + ": 'input_shape' is not a list of sizes");
    package.input_shape.push_back(*number);
    package.input_values *= *number;
  }
  if (access(package.library.c_str(), R_OK) != 0) throw UsageError("cannot read " + package.library);
  return package;
}

}  // namespace tvmfbnet
