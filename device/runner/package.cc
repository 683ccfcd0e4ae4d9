#include "package.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/string.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "../common/options.h"

namespace tvmfbnet {
namespace {

namespace json = tvm::ffi::json;
using tvm::ffi::String;

constexpr size_t kMostBytes = 1 << 24, kMostDepth = 100;
constexpr int64_t kMostValues = int64_t{1} << 31;

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

// A type by name, such as float32: whole bytes, no vectors.
DLDataType type_named(const String& name, const std::string& file) {
  try {
    DLDataType type = tvm::ffi::StringToDLDataType(name);
    if (type.lanes == 1 && type.bits >= 8 && type.bits % 8 == 0) return type;
  } catch (const tvm::ffi::Error&) {
  }
  throw UsageError(file + ": 'input_dtype' is not a type that this program knows: " + std::string(name));
}

// How deep lists and objects lie in each other: the parser calls itself for each.
size_t depth(const std::string& text) {
  size_t now = 0, most = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && (text[i] == '[' || text[i] == '{')) {
      most = std::max(most, ++now);
    } else if (!quoted && (text[i] == ']' || text[i] == '}') && now > 0) {
      --now;
    }
  }
  return most;
}

std::string read_text(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw UsageError("cannot read " + file + ": give --package the folder that `tvmfbnet compile` wrote");
  std::string text(kMostBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMostBytes || depth(text) > kMostDepth) {
    throw UsageError(file + " is not a package's: too large or too deep");
  }
  return text;
}

// A name that becomes part of a file's name.
std::string output_name(const json::Object& output, const std::string& file) {
  std::string name(field<String>(output, "name", file));
  if (name.empty() || name.find_first_of("/\\") != std::string::npos) {
    throw UsageError(file + ": an output's 'name' is empty or holds a slash");
  }
  return name;
}

// Of packages that name none, which have one.
constexpr const char* kOnlyOutput = "output";

std::vector<std::string> output_names(const json::Object& object, const std::string& file) {
  std::vector<std::string> names;
  if (object.find(String("outputs")) != object.end()) {
    for (const json::Value& value : field<json::Array>(object, "outputs", file)) {
      auto output = value.try_cast<json::Object>();
      if (!output.has_value()) throw UsageError(file + ": 'outputs' is not a list of objects");
      names.push_back(output_name(*output, file));
    }
  }
  if (names.empty()) names.emplace_back(kOnlyOutput);
  return names;
}

}  // namespace

Package load_package(const std::string& folder) {
  std::string file = folder + "/package.json";
  std::string text = read_text(file);
  String problem;
  json::Value value = json::Parse(text, &problem);
  auto object = value.try_cast<json::Object>();
  if (problem.size() != 0 || !object.has_value()) throw UsageError(file + " is not a JSON object");
  Package package;
  std::string library(field<String>(*object, "library", file));
  if (library.find('/') != std::string::npos) throw UsageError(file + ": 'library' is not a file's name");
  package.library = folder + "/" + library;
  package.arch = std::string(field<String>(*object, "arch", file));
  auto compiled_for = field<json::Object>(*object, "tvm_target", file);
  package.device = device_of(std::string(field<String>(compiled_for, "kind", file)), file);
  // Packages of before float32 was one of several types do not say.
  if (object->find(String("input_dtype")) != object->end()) {
    package.type = type_named(field<String>(*object, "input_dtype", file), file);
  }
  package.outputs = output_names(*object, file);
  for (const json::Value& size : field<json::Array>(*object, "input_shape", file)) {
    auto number = size.try_cast<int64_t>();
    if (!number.has_value() || *number < 1 || *number > kMostValues / package.input_values) {
      throw UsageError(file + ": 'input_shape' is not a list of sizes, or too large");
    }
    package.input_shape.push_back(*number);
    package.input_values *= *number;
  }
  if (access(package.library.c_str(), R_OK) != 0) throw UsageError("cannot read " + package.library);
  return package;
}

}  // namespace tvmfbnet
