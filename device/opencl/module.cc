// OpenCL kernels as TVM ships them inside a library: source, argument types and launch parameters. Each kernel is
// compiled by the device's driver at its first call.

#include <tvm/ffi/cast.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "half.h"

namespace tvmfbnet {
namespace {

namespace ffi = tvm::ffi;

// What TVM writes into a library: little-endian numbers, 64-bit counts before strings and lists.
class Reader {
 public:
  explicit Reader(const ffi::Bytes& bytes) : next_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string text() {
    auto size = number<uint64_t>();
    return std::string(take(size), size);
  }

 private:
  const char* take(uint64_t size) {
    if (size > static_cast<uint64_t>(end_ - next_)) TVM_FFI_THROW(ValueError) << "an OpenCL module is cut short";
    const char* here = next_;
    next_ += size;
    return here;
  }

  const char *next_, *end_;
};

struct KernelInfo {
  std::string name;
  std::vector<DLDataType> arguments;
  // For each launch parameter: 0 to 2 the grid's axes, 3 to 5 the work group's.
  std::vector<int> launch_axes;
};

int launch_axis(const std::string& tag) {
  for (const auto& [prefix, base] : {std::pair<std::string, int>{"blockIdx.", 0}, {"threadIdx.", 3}}) {
    if (tag.rfind(prefix, 0) == 0 && tag.size() == prefix.size() + 1 && tag.back() >= 'x' && tag.back() <= 'z') {
      return base + (tag.back() - 'x');
    }
  }
  TVM_FFI_THROW(ValueError) << "OpenCL has no launch parameter '" << tag << "'";
  TVM_FFI_UNREACHABLE();
}

KernelInfo read_kernel(Reader* reader) {
  KernelInfo info;
  info.name = reader->text();
  for (auto left = reader->number<uint64_t>(); left > 0; --left) {
    DLDataType type{};
    type.code = reader->number<uint8_t>();
    type.bits = reader->number<uint8_t>();
    type.lanes = reader->number<uint16_t>();
    info.arguments.push_back(type);
  }
  for (auto left = reader->number<uint64_t>(); left > 0; --left) info.launch_axes.push_back(launch_axis(reader->text()));
  for (auto left = reader->number<uint64_t>(); left > 0; --left) reader->number<int32_t>();  // for CUDA only
  return info;
}

// One argument's bytes as the kernel takes them. TVM passes integers as 64 bits and every float as a double.
struct Scalar {
  Scalar(const TVMFFIAny& value, DLDataType type) {
    size = static_cast<size_t>(type.bits + 7) / 8;
    if (type.code == kDLOpaqueHandle) {
      cl_mem handle = static_cast<cl_mem>(value.v_ptr);
      size = sizeof(handle);
      std::memcpy(bytes, &handle, size);
    } else if (type.lanes != 1 || size > sizeof(bytes)) {
      TVM_FFI_THROW(ValueError) << "OpenCL: an argument of type " << ffi::DLDataTypeToString(type) << " is not supported";
    } else if (type.code == kDLFloat) {
      // A whole number arrives as an integer even where a float is wanted.
      double number = value.type_index == ffi::TypeIndex::kTVMFFIFloat ? value.v_float64
                                                                      : static_cast<double>(value.v_int64);
      put_float(number, type.bits);
    } else if (type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool) {
      std::memcpy(bytes, &value.v_int64, size);  // little-endian: the low bytes
    } else {
      TVM_FFI_THROW(ValueError) << "OpenCL: an argument of type " << ffi::DLDataTypeToString(type) << " is not supported";
    }
  }

  void put_float(double number, int bits) {
    if (bits == 64) {
      std::memcpy(bytes, &number, 8);
    } else if (bits == 32) {
      auto single = static_cast<float>(number);
      std::memcpy(bytes, &single, 4);
    } else if (bits == 16) {
      uint16_t half = to_half(number);
      std::memcpy(bytes, &half, 2);
    } else {
      TVM_FFI_THROW(ValueError) << "OpenCL: a float of " << bits << " bits is not supported";
    }
  }

  unsigned char bytes[8] = {};
  size_t size = 0;
};

// What the driver says about a failed build.
std::string build_log(cl_program program, cl_device_id device) {
  constexpr size_t kMost = 1 << 24;
  size_t size = 0;
  if (driver().GetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size) != CL_SUCCESS) return "";
  if (size > kMost) return "";
  std::string log(size, '\0');
  if (driver().GetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr) != CL_SUCCESS) return "";
  log.resize(std::min(log.find('\0'), log.size()));
  for (char& c : log) {
    if (c != '\n' && (c < 0x20 || c > 0x7e)) c = c == '\t' ? ' ' : '?';  // clients read UTF-8
  }
  return log;
}

// Whole where it is of a sane length, else its beginning and its end.
std::string shortened(const std::string& log) {
  constexpr size_t kShown = 8192;
  if (log.size() <= 2 * kShown) return log;
  return log.substr(0, kShown) + "\n... (" + std::to_string(log.size() - 2 * kShown) + " bytes left out)\n" +
         log.substr(log.size() - kShown);
}

// The first line that names an error, else the first one that says something.
std::string telling_line(const std::string& log) {
  std::istringstream lines(log);
  std::string first;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("error") != std::string::npos) return line;
    if (first.empty()) first = line;
  }
  return first.empty() ? "it says nothing about why" : first;
}

class OpenClModule final : public ffi::ModuleObj {
 public:
  explicit OpenClModule(const ffi::Bytes& bytes) : bytes_(bytes) {
    Reader reader(bytes);
    std::string format = reader.text();
    if (format != "cl") TVM_FFI_THROW(ValueError) << "OpenCL kernels of format '" << format << "' are not supported";
    for (auto left = reader.number<uint64_t>(); left > 0; --left) {
      std::string name = reader.text();
      kernels_.emplace(name, read_kernel(&reader));
    }
    split_source(reader.text());
  }

  ~OpenClModule() {
    for (auto& [place, kernel] : compiled_) driver().ReleaseKernel(kernel);
  }

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable | ffi::Module::kRunnable; }
  ffi::Bytes SaveToBytes() const final { return bytes_; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = kernels_.find(std::string(name));
    if (found == kernels_.end()) return std::nullopt;
    auto keep = ffi::GetRef<ffi::Module>(this);
    const KernelInfo* info = &found->second;
    return ffi::Function::FromPacked(
        [this, keep, info](const ffi::AnyView* args, int32_t count, ffi::Any*) { launch(*info, args, count); });
  }

 private:
  // TVM puts "// Function: NAME" before each kernel. They are compiled one by one: a driver takes long for each.
  void split_source(const std::string& source) {
    const std::string mark = "// Function: ";
    for (size_t at = source.find(mark); at != std::string::npos;) {
      size_t line_end = source.find('\n', at);
      size_t next = source.find(mark, at + mark.size());
      if (line_end == std::string::npos) break;
      sources_[source.substr(at + mark.size(), line_end - at - mark.size())] =
          source.substr(line_end, next == std::string::npos ? next : next - line_end);
      at = next;
    }
  }

  void launch(const KernelInfo& info, const ffi::AnyView* args, int32_t count) {
    size_t scalars = info.arguments.size();
    if (static_cast<size_t>(count) != scalars + info.launch_axes.size()) {
      TVM_FFI_THROW(ValueError) << "kernel " << info.name << " takes " << scalars + info.launch_axes.size()
                                << " arguments, not " << count;
    }
    const auto* raw = reinterpret_cast<const TVMFFIAny*>(args);
    size_t sizes[6] = {1, 1, 1, 1, 1, 1};
    for (size_t i = 0; i < info.launch_axes.size(); ++i) {
      // A dynamic shape may make an axis 0.
      sizes[info.launch_axes[i]] = static_cast<size_t>(std::max<int64_t>(raw[scalars + i].v_int64, 1));
    }
    for (int axis = 0; axis < 3; ++axis) sizes[axis] *= sizes[axis + 3];
    int index = OpenClApi::current();
    const OpenClDevice& device = OpenClApi::global()->device(index);
    std::lock_guard<std::mutex> lock(mutex_);  // a kernel object holds its arguments: one launch at a time
    cl_kernel kernel = compiled(info.name, index);
    for (size_t i = 0; i < scalars; ++i) {
      Scalar scalar(raw[i], info.arguments[i]);
      check(driver().SetKernelArg(kernel, static_cast<cl_uint>(i), scalar.size, scalar.bytes), "clSetKernelArg");
    }
    cl_event event = nullptr;
    check(driver().EnqueueNDRangeKernel(device.queue, kernel, 3, nullptr, sizes, sizes + 3, 0, nullptr, &event),
          "clEnqueueNDRangeKernel");
    OpenClApi::global()->launched(index, event);
  }

  cl_kernel compiled(const std::string& name, int index) {
    auto known = compiled_.find({name, index});
    if (known != compiled_.end()) return known->second;
    auto found = sources_.find(name);
    if (found == sources_.end()) TVM_FFI_THROW(ValueError) << "an OpenCL module lacks the source of kernel " << name;
    const OpenClDevice& device = OpenClApi::global()->device(index);
    const char* source = found->second.c_str();
    cl_int code = CL_SUCCESS;
    cl_program program = driver().CreateProgramWithSource(device.context, 1, &source, nullptr, &code);
    check(code, "clCreateProgramWithSource");
    code = driver().BuildProgram(program, 1, &device.id, "", nullptr, nullptr);
    if (code != CL_SUCCESS) {
      std::string log = build_log(program, device.id);
      driver().ReleaseProgram(program);
      // The line that tells most comes last: it is what one-line messages keep.
      TVM_FFI_THROW(RuntimeError) << shortened(log) << "\nthe OpenCL driver refused kernel " << name << " (code " << code
                                  << "): " << telling_line(log);
    }
    cl_kernel kernel = driver().CreateKernel(program, name.c_str(), &code);
    driver().ReleaseProgram(program);  // the kernel holds it
    check(code, "clCreateKernel");
    compiled_[{name, index}] = kernel;  // only what was built: another call of a broken kernel says so again
    return kernel;
  }

  ffi::Bytes bytes_;
  std::map<std::string, KernelInfo> kernels_;
  std::map<std::string, std::string> sources_;
  std::mutex mutex_;
  std::map<std::pair<std::string, int>, cl_kernel> compiled_;
};

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::GlobalDef().def("ffi.Module.load_from_bytes.opencl", [](const ffi::Bytes& bytes) {
    return ffi::Module(ffi::make_object<OpenClModule>(bytes));
  });
}

}  // namespace
}  // namespace tvmfbnet
