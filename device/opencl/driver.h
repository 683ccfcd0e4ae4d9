// The device's OpenCL driver, loaded when first needed: phones keep it in many places, and none is needed to build this.
#ifndef TVMFBNET_DEVICE_OPENCL_DRIVER_H_
#define TVMFBNET_DEVICE_OPENCL_DRIVER_H_

#include <CL/cl.h>

#include <string>

namespace tvmfbnet {

// Every OpenCL function that the plugin calls.
#define TVMFBNET_OPENCL_FUNCTIONS(X) \
  X(GetPlatformIDs)                  \
  X(GetDeviceIDs)                    \
  X(GetDeviceInfo)                   \
  X(CreateContext)                   \
  X(CreateCommandQueue)              \
  X(CreateBuffer)                    \
  X(ReleaseMemObject)                \
  X(EnqueueReadBuffer)               \
  X(EnqueueWriteBuffer)              \
  X(EnqueueCopyBuffer)               \
  X(Finish)                          \
  X(CreateProgramWithSource)         \
  X(BuildProgram)                    \
  X(GetProgramBuildInfo)             \
  X(ReleaseProgram)                  \
  X(CreateKernel)                    \
  X(ReleaseKernel)                   \
  X(SetKernelArg)                    \
  X(EnqueueNDRangeKernel)            \
  X(GetEventProfilingInfo)           \
  X(RetainEvent)                     \
  X(ReleaseEvent)

struct Driver {
#define TVMFBNET_OPENCL_DECLARE(name) decltype(&cl##name) name = nullptr;
  TVMFBNET_OPENCL_FUNCTIONS(TVMFBNET_OPENCL_DECLARE)
#undef TVMFBNET_OPENCL_DECLARE
};

// The driver, or nullptr on a device without one.
const Driver* find_driver();

// The driver; throws when there is none.
const Driver& driver();

// Throws an error that names the call and OpenCL's error code when `code` is one.
void check(cl_int code, const char* call);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_OPENCL_DRIVER_H_
