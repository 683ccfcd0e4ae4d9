// Timing by the device's own clock: from the start of the first kernel to the end of the last. Gaps between kernels
// count, for the net pays them too; the way from the host and back does not.

#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/timer.h>

#include "device.h"

namespace tvmfbnet {
namespace {

cl_ulong moment(cl_event event, cl_profiling_info what) {
  cl_ulong value = 0;
  check(driver().GetEventProfilingInfo(event, what, sizeof(value), &value, nullptr), "clGetEventProfilingInfo");
  return value;
}

class OpenClTimer final : public tvm::runtime::TimerNode {
 public:
  explicit OpenClTimer(tvm::Device device) : device_(device) {}
  ~OpenClTimer() override { release(); }

  void Start() final {
    OpenClApi::global()->StreamSync(device_, nullptr);
    OpenClApi::global()->start_recording(device_.device_id);
  }
  void Stop() final { span_ = OpenClApi::global()->stop_recording(device_.device_id); }
  int64_t SyncAndGetElapsedNanos() final {
    OpenClApi::global()->StreamSync(device_, nullptr);
    if (span_.first == nullptr) return 0;  // nothing ran on the device
    cl_ulong start = moment(span_.first, CL_PROFILING_COMMAND_START);
    cl_ulong end = moment(span_.last, CL_PROFILING_COMMAND_END);
    release();
    return static_cast<int64_t>(end - start);
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("tvmfbnet.OpenClTimer", OpenClTimer, tvm::runtime::TimerNode);

 private:
  void release() {
    if (span_.first != nullptr) driver().ReleaseEvent(span_.first);
    if (span_.last != nullptr) driver().ReleaseEvent(span_.last);
    span_ = KernelSpan();
  }

  tvm::Device device_;
  KernelSpan span_;
};

TVM_FFI_STATIC_INIT_BLOCK() {
  tvm::ffi::reflection::GlobalDef().def("runtime.timer.opencl", [](tvm::Device device) {
    return tvm::runtime::Timer(tvm::ffi::make_object<OpenClTimer>(device));
  });
}

}  // namespace
}  // namespace tvmfbnet
