#include "net.h"

#include <tvm/ffi/dtype.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/memory/memory_manager.h>

#include "../common/options.h"

namespace tvmfbnet {
namespace {

namespace ffi = tvm::ffi;
using tvm::runtime::DeviceAPI;
using tvm::runtime::Tensor;
using tvm::runtime::memory::AllocatorType;

DLDevice device_named(const std::string& name) {
  DLDevice device{name == "opencl" ? kDLOpenCL : name == "metal" ? kDLMetal : kDLCPU, 0};
  if (DeviceAPI::Get(device, true) == nullptr) {
    throw UsageError("this net runs on " + name + ", which this build of the runner does not have "
                     "(see docs/reference/device-programs.md)");
  }
  return device;
}

ffi::Function need(const ffi::Module& module, const char* name, const std::string& library) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name, true);
  if (!found.has_value()) throw UsageError(library + " is no compiled net: it has no function '" + name + "'");
  return *found;
}

// The library's executable, loaded into a virtual machine for `device` and, for what runs on the host, the CPU.
ffi::Module load_machine(const std::string& library, DLDevice device) {
  ffi::Module file = ffi::Module::LoadFromFile(library);
  auto machine = need(file, "vm_load_executable", library)().cast<ffi::Module>();
  const int pooled = static_cast<int>(AllocatorType::kPooled);
  std::vector<ffi::AnyView> devices = {static_cast<int>(device.device_type), device.device_id, pooled};
  if (device.device_type != kDLCPU) {
    for (int value : {static_cast<int>(kDLCPU), 0, pooled}) devices.emplace_back(value);
  }
  ffi::Any ignored;
  need(machine, "vm_initialization", library)
      .CallPacked(devices.data(), static_cast<int>(devices.size()), &ignored);
  return machine;
}

}  // namespace

Net::Net(const Package& package)
    : package_(package),
      device_(device_named(package.device)),
      machine_(load_machine(package.library, device_)),
      main_(need(machine_, "main", package.library)),
      input_(Tensor::Empty(ffi::Shape(package.input_shape.begin(), package.input_shape.end()), package.type, device_)) {}

void Net::set_input(const std::vector<char>& bytes) { input_.CopyFromBytes(bytes.data(), bytes.size()); }

void Net::call() {
  ffi::Any result = main_(input_);
  outputs_.clear();
  if (auto several = result.try_cast<ffi::Array<Tensor>>()) {
    outputs_.assign(several->begin(), several->end());
  } else if (auto one = result.try_cast<Tensor>()) {
    outputs_.push_back(*one);
  }
  if (outputs_.size() != package_.outputs.size()) {
    throw UsageError(package_.library + " gives " + std::to_string(outputs_.size()) + " tensors, but package.json names " +
                     std::to_string(package_.outputs.size()));
  }
  DeviceAPI::Get(device_)->StreamSync(device_, nullptr);
}

std::vector<std::vector<char>> Net::outputs() const {
  std::vector<std::vector<char>> all;
  for (const Tensor& output : outputs_) {
    DLDataType type = output->dtype, told = package_.type;
    if (type.code != told.code || type.bits != told.bits || type.lanes != told.lanes) {
      throw UsageError(package_.library + " gives values that are not " + std::string(ffi::DLDataTypeToString(told)));
    }
    all.emplace_back(static_cast<size_t>(output.numel() * package_.value_bytes()));
    output.CopyToBytes(all.back().data(), all.back().size());
  }
  return all;
}

}  // namespace tvmfbnet
