#include "workspace.h"

#include <fcntl.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "../common/info.h"
#include "../common/log.h"

namespace tvmfbnet {
namespace {

namespace ffi = tvm::ffi;

constexpr size_t kNameLimit = 200;

// TVM's own upload does not look whether its writes succeed: on a full disk half a library would be loaded.
void write_file(const std::string& path, const char* data, size_t size) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0700);
  bool good = fd >= 0;
  while (good && size > 0) {
    ssize_t written = write(fd, data, size);
    good = written > 0;
    if (good) {
      data += written;
      size -= static_cast<size_t>(written);
    }
  }
  int error = errno;
  if (fd >= 0 && close(fd) != 0 && good) {
    good = false;
    error = errno;
  }
  if (!good) {
    unlink(path.c_str());
    TVM_FFI_THROW(RuntimeError) << "the device cannot write an uploaded file: " << std::strerror(error);
  }
}

std::string checked_path(const std::string& folder, const std::string& name) {
  if (name.empty() || name.size() > kNameLimit || name[0] == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    log_warning("refused the file name '" + printable(name) + "'");
    TVM_FFI_THROW(ValueError) << "the device takes plain file names only, not '" << printable(name) << "'";
  }
  return folder + "/" + name;
}

}  // namespace

void register_workspace(const std::string& folder, double max_seconds, std::function<std::string()> last_fault) {
  auto set = [](const char* name, ffi::Function function) { ffi::Function::SetGlobal(name, function, true); };
  set("tvm.rpc.server.workpath", ffi::Function::FromTyped([folder](ffi::String name) -> ffi::String {
        return checked_path(folder, name);
      }));
  set("tvm.rpc.server.upload", ffi::Function::FromTyped([folder](ffi::String name, ffi::Bytes data) {
        write_file(checked_path(folder, name), data.data(), data.size());
      }));
  set("tvm.rpc.server.load_module", ffi::Function::FromTyped([folder](ffi::String name) -> ffi::Module {
        return ffi::Module::LoadFromFile(checked_path(folder, name));
      }));
  set("tvmfbnet.device.info", ffi::Function::FromTyped([max_seconds]() -> ffi::String {
        return device_info({{"max_session_seconds", std::to_string(static_cast<long>(max_seconds))}});
      }));
  set("tvmfbnet.device.last_fault",
      ffi::Function::FromTyped([last_fault]() -> ffi::String { return last_fault(); }));
}

}  // namespace tvmfbnet
