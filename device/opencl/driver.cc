#include "driver.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <memory>

namespace tvmfbnet {
namespace {

// Where drivers are found: by the loader's own search, then in Android's vendor folders.
constexpr const char* kLibraries[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "libOpenCL-pixel.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
};

// Google's Pixel phones: their library exports no OpenCL function, but one that must be called first and one that finds
// the others by name.
class Symbols {
 public:
  explicit Symbols(void* handle) : handle_(handle) {
    auto enable = reinterpret_cast<void (*)()>(dlsym(handle, "enableOpenCL"));
    find_ = reinterpret_cast<void* (*)(const char*)>(dlsym(handle, "loadOpenCLPointer"));
    if (enable != nullptr && find_ != nullptr) enable();
  }
  void* operator()(const char* name) const {
    void* exported = dlsym(handle_, name);
    return exported == nullptr && find_ != nullptr ? find_(name) : exported;
  }

 private:
  void* handle_;
  void* (*find_)(const char*) = nullptr;
};

std::unique_ptr<Driver> load(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  Symbols symbol(handle);
  auto found = std::make_unique<Driver>();
  bool whole = true;
#define TVMFBNET_OPENCL_LOAD(name)                                              \
  found->name = reinterpret_cast<decltype(found->name)>(symbol("cl" #name)); \
  whole = whole && found->name != nullptr;
  TVMFBNET_OPENCL_FUNCTIONS(TVMFBNET_OPENCL_LOAD)
#undef TVMFBNET_OPENCL_LOAD
  // One that does not serve stays loaded: it may have started threads of its own.
  return whole ? std::move(found) : nullptr;
}

const Driver* load_first() {
  for (const char* library : kLibraries) {
    if (auto found = load(library)) return found.release();  // for the life of the process
  }
  return nullptr;
}

}  // namespace

const Driver* find_driver() {
  static const Driver* found = load_first();
  return found;
}

const Driver& driver() {
  const Driver* found = find_driver();
  if (found == nullptr) TVM_FFI_THROW(RuntimeError) << "this device has no OpenCL driver";
  return *found;
}

void check(cl_int code, const char* call) {
  if (code == CL_SUCCESS) return;
  const char* hint = "";
  if (code == CL_OUT_OF_RESOURCES || code == CL_MEM_OBJECT_ALLOCATION_FAILURE) hint = " (out of memory or registers)";
  if (code == CL_INVALID_WORK_GROUP_SIZE) hint = " (the work group is larger than the device or kernel allows)";
  TVM_FFI_THROW(RuntimeError) << "OpenCL: " << call << " failed with code " << code << hint;
}

}  // namespace tvmfbnet
