#include "device.h"

#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>

namespace tvmfbnet {
namespace {

using tvm::Device;
using tvm::ffi::Any;
using tvm::ffi::String;
using namespace tvm::runtime;  // the DeviceAttrKind enumerators

thread_local int current_device = 0;

template <typename T>
T number(cl_device_id id, cl_device_info what) {
  T value{};
  check(driver().GetDeviceInfo(id, what, sizeof(value), &value, nullptr), "clGetDeviceInfo");
  return value;
}

std::string text(cl_device_id id, cl_device_info what) {
  size_t size = 0;
  check(driver().GetDeviceInfo(id, what, 0, nullptr, &size), "clGetDeviceInfo");
  std::string value(size, '\0');
  check(driver().GetDeviceInfo(id, what, size, value.data(), nullptr), "clGetDeviceInfo");
  while (!value.empty() && value.back() == '\0') value.pop_back();
  return value;
}

// As TVM's clients read it: "[1024, 1024, 64]".
std::string work_item_sizes(cl_device_id id) {
  auto dimensions = number<cl_uint>(id, CL_DEVICE_MAX_WORK_ITEM_DIMENSIONS);
  std::vector<size_t> sizes(dimensions);
  check(driver().GetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof(size_t) * dimensions, sizes.data(), nullptr),
        "clGetDeviceInfo");
  std::string result;
  for (size_t i = 0; i < std::min<size_t>(sizes.size(), 3); ++i) {
    result += (i == 0 ? "[" : ", ") + std::to_string(sizes[i]);
  }
  return result + "]";
}

cl_mem memory(const void* handle) { return static_cast<cl_mem>(const_cast<void*>(handle)); }

}  // namespace

OpenClApi* OpenClApi::global() {
  static auto* instance = new OpenClApi();  // never destroyed: drivers crash when used while a process ends
  return instance;
}

void OpenClApi::open_all() {
  if (find_driver() == nullptr) return;
  for (cl_device_type kind : {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU}) {
    if (open_kind(kind)) break;
  }
  recordings_.resize(devices_.size());
}

bool OpenClApi::open_kind(cl_device_type kind) {
  cl_uint platforms = 0;
  if (driver().GetPlatformIDs(0, nullptr, &platforms) != CL_SUCCESS) return false;
  std::vector<cl_platform_id> platform_ids(platforms);
  if (platforms > 0) check(driver().GetPlatformIDs(platforms, platform_ids.data(), nullptr), "clGetPlatformIDs");
  for (cl_platform_id platform : platform_ids) {
    cl_uint found = 0;
    if (driver().GetDeviceIDs(platform, kind, 0, nullptr, &found) != CL_SUCCESS) continue;
    std::vector<cl_device_id> ids(found);
    if (found > 0) check(driver().GetDeviceIDs(platform, kind, found, ids.data(), nullptr), "clGetDeviceIDs");
    for (cl_device_id id : ids) {
      OpenClDevice device;
      cl_int code = CL_SUCCESS;
      device.id = id;
      device.context = driver().CreateContext(nullptr, 1, &id, nullptr, nullptr, &code);
      check(code, "clCreateContext");
      device.queue = driver().CreateCommandQueue(device.context, id, CL_QUEUE_PROFILING_ENABLE, &code);
      check(code, "clCreateCommandQueue");
      devices_.push_back(device);
    }
  }
  return !devices_.empty();
}

size_t OpenClApi::count() {
  std::call_once(opened_, [this] { open_all(); });
  return devices_.size();
}

const OpenClDevice& OpenClApi::device(int index) {
  size_t devices = count();
  if (index < 0 || static_cast<size_t>(index) >= devices) {
    TVM_FFI_THROW(RuntimeError) << "there is no OpenCL device " << index << "; devices found: " << devices;
  }
  return devices_[static_cast<size_t>(index)];
}

int OpenClApi::current() { return current_device; }

void OpenClApi::launched(int index, cl_event event) {
  std::lock_guard<std::mutex> lock(mutex_);
  Recording& recording = recordings_[static_cast<size_t>(index)];
  if (recording.on) {
    if (recording.span.first == nullptr) {
      recording.span.first = event;
      driver().RetainEvent(event);
    }
    std::swap(recording.span.last, event);
  }
  if (event != nullptr) driver().ReleaseEvent(event);
}

void OpenClApi::start_recording(int index) {
  device(index);
  KernelSpan old = stop_recording(index);
  if (old.first != nullptr) driver().ReleaseEvent(old.first);
  if (old.last != nullptr) driver().ReleaseEvent(old.last);
  std::lock_guard<std::mutex> lock(mutex_);
  recordings_[static_cast<size_t>(index)].on = true;
}

KernelSpan OpenClApi::stop_recording(int index) {
  std::lock_guard<std::mutex> lock(mutex_);
  Recording recorded;
  std::swap(recorded, recordings_[static_cast<size_t>(index)]);
  return recorded.span;
}

void OpenClApi::SetDevice(Device dev) { current_device = dev.device_id; }

void OpenClApi::GetAttr(Device dev, DeviceAttrKind kind, Any* rv) {
  if (kind == kExist) {
    *rv = static_cast<int64_t>(dev.device_id >= 0 && static_cast<size_t>(dev.device_id) < count());
    return;
  }
  cl_device_id id = device(dev.device_id).id;
  switch (kind) {
    case kMaxThreadsPerBlock:
      *rv = static_cast<int64_t>(number<size_t>(id, CL_DEVICE_MAX_WORK_GROUP_SIZE));
      break;
    case kWarpSize:
      *rv = static_cast<int64_t>(1);  // OpenCL 1.2 has no device-wide figure, and TVM must not assume lockstep
      break;
    case kMaxSharedMemoryPerBlock:
      *rv = static_cast<int64_t>(number<cl_ulong>(id, CL_DEVICE_LOCAL_MEM_SIZE));
      break;
    case kComputeVersion:
      *rv = String(text(id, CL_DEVICE_VERSION));
      break;
    case kDeviceName:
      *rv = String(text(id, CL_DEVICE_NAME));
      break;
    case kMaxClockRate:
      *rv = static_cast<int64_t>(number<cl_uint>(id, CL_DEVICE_MAX_CLOCK_FREQUENCY)) * 1000;  // kHz, as TVM has it
      break;
    case kMultiProcessorCount:
      *rv = static_cast<int64_t>(number<cl_uint>(id, CL_DEVICE_MAX_COMPUTE_UNITS));
      break;
    case kMaxThreadDimensions:
      *rv = String(work_item_sizes(id));
      break;
    case kDriverVersion:
      *rv = String(text(id, CL_DRIVER_VERSION));
      break;
    case kL2CacheSizeBytes:
      *rv = static_cast<int64_t>(number<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE));
      break;
    case kTotalGlobalMemory:
      *rv = static_cast<int64_t>(number<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_SIZE));
      break;
    default:  // registers, architecture names, free memory: OpenCL does not tell
      *rv = nullptr;
  }
}

void OpenClApi::GetTargetProperty(Device dev, const std::string& property, Any* rv) {
  if (property == "max_threads_per_block" || property == "max_num_threads") GetAttr(dev, kMaxThreadsPerBlock, rv);
  if (property == "max_shared_memory_per_block") GetAttr(dev, kMaxSharedMemoryPerBlock, rv);
  if (property == "thread_warp_size") GetAttr(dev, kWarpSize, rv);
  if (property == "max_work_item_sizes") GetAttr(dev, kMaxThreadDimensions, rv);
}

void* OpenClApi::AllocDataSpace(Device dev, size_t nbytes, size_t, DLDataType) {
  cl_int code = CL_SUCCESS;
  const OpenClDevice& on = device(dev.device_id);
  cl_mem result = driver().CreateBuffer(on.context, CL_MEM_READ_WRITE, std::max<size_t>(nbytes, 1), nullptr, &code);
  check(code, "clCreateBuffer");
  return result;
}

void OpenClApi::FreeDataSpace(Device dev, void* ptr) {
  StreamSync(dev, nullptr);  // a kernel in the queue may still use it
  check(driver().ReleaseMemObject(memory(ptr)), "clReleaseMemObject");
}

void OpenClApi::StreamSync(Device dev, TVMStreamHandle) {
  check(driver().Finish(device(dev.device_id).queue), "clFinish");
}

void OpenClApi::CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t size,
                               Device dev_from, Device dev_to, DLDataType, TVMStreamHandle) {
  if (size == 0) return;
  if (is_opencl(dev_from) && is_opencl(dev_to) && dev_from.device_id == dev_to.device_id) {
    check(driver().EnqueueCopyBuffer(device(dev_to.device_id).queue, memory(from), memory(to), from_offset, to_offset,
                                     size, 0, nullptr, nullptr),
          "clEnqueueCopyBuffer");
  } else if (is_opencl(dev_from) && is_opencl(dev_to)) {
    // Two devices share no context: by way of the host.
    std::vector<char> staging(size);
    Device host{kDLCPU, 0};
    CopyDataFromTo(from, from_offset, staging.data(), 0, size, dev_from, host, {}, nullptr);
    CopyDataFromTo(staging.data(), 0, to, to_offset, size, host, dev_to, {}, nullptr);
  } else if (is_opencl(dev_from) && dev_to.device_type == kDLCPU) {
    check(driver().EnqueueReadBuffer(device(dev_from.device_id).queue, memory(from), CL_TRUE, from_offset, size,
                                     static_cast<char*>(to) + to_offset, 0, nullptr, nullptr),
          "clEnqueueReadBuffer");
  } else if (dev_from.device_type == kDLCPU && is_opencl(dev_to)) {
    check(driver().EnqueueWriteBuffer(device(dev_to.device_id).queue, memory(to), CL_TRUE, to_offset, size,
                                      static_cast<const char*>(from) + from_offset, 0, nullptr, nullptr),
          "clEnqueueWriteBuffer");
  } else {
    TVM_FFI_THROW(RuntimeError) << "OpenCL: cannot copy between device types " << dev_from.device_type << " and "
                                << dev_to.device_type;
  }
}

TVM_FFI_STATIC_INIT_BLOCK() {
  // Nothing of the driver is touched here: the server forks its sessions, and drivers do not survive a fork.
  tvm::ffi::reflection::GlobalDef().def("device_api.opencl",
                                        []() -> void* { return static_cast<DeviceAPI*>(OpenClApi::global()); });
  // The extensions of a device, separated by spaces: no attribute of TVM's tells them.
  tvm::ffi::reflection::GlobalDef().def("tvmfbnet.opencl.extensions", [](int index) {
    return String(text(OpenClApi::global()->device(index).id, CL_DEVICE_EXTENSIONS));
  });
}

}  // namespace tvmfbnet
