// TVM's device interface for OpenCL: every device of the kind that the driver offers, each with a context and an
// in-order queue of its own. TVM's buffers are cl_mem handles.
#ifndef TVMFBNET_DEVICE_OPENCL_DEVICE_H_
#define TVMFBNET_DEVICE_OPENCL_DEVICE_H_

#include <tvm/runtime/device_api.h>

#include <mutex>
#include <string>
#include <vector>

#include "driver.h"

namespace tvmfbnet {

// One OpenCL device, opened.
struct OpenClDevice {
  cl_device_id id = nullptr;
  cl_context context = nullptr;
  cl_command_queue queue = nullptr;
};

// First and last kernel since the timer started; null when none ran.
struct KernelSpan {
  cl_event first = nullptr;
  cl_event last = nullptr;
};

class OpenClApi final : public tvm::runtime::DeviceAPI {
 public:
  static OpenClApi* global();

  // GPUs if there are any, else accelerators, else CPUs.
  size_t count();
  const OpenClDevice& device(int index);
  // The device that this thread's kernels run on.
  static int current();
  // Takes over the event of a kernel that was just launched on a device.
  void launched(int index, cl_event event);
  // From now on the device's kernels are recorded; what was recorded before is forgotten.
  void start_recording(int index);
  // Stops recording and hands over what was recorded.
  KernelSpan stop_recording(int index);

  void SetDevice(tvm::Device dev) final;
  void GetAttr(tvm::Device dev, tvm::runtime::DeviceAttrKind kind, tvm::ffi::Any* rv) final;
  void GetTargetProperty(tvm::Device dev, const std::string& property, tvm::ffi::Any* rv) final;
  using DeviceAPI::AllocDataSpace;
  void* AllocDataSpace(tvm::Device dev, size_t nbytes, size_t alignment, DLDataType type_hint) final;
  void FreeDataSpace(tvm::Device dev, void* ptr) final;
  void StreamSync(tvm::Device dev, TVMStreamHandle stream) final;

 protected:
  using DeviceAPI::CopyDataFromTo;
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t size, tvm::Device dev_from,
                      tvm::Device dev_to, DLDataType type_hint, TVMStreamHandle stream) final;

 private:
  struct Recording {
    bool on = false;
    KernelSpan span;
  };

  void open_all();
  bool open_kind(cl_device_type kind);
  bool is_opencl(tvm::Device dev) const { return dev.device_type == kDLOpenCL; }

  std::once_flag opened_;
  std::mutex mutex_;
  std::vector<OpenClDevice> devices_;
  std::vector<Recording> recordings_;
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_OPENCL_DEVICE_H_
