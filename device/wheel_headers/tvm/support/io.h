// Stands in for a header that TVM's wheels lack but their tensor.h includes. Only what that header's inline functions
// name is declared; nothing here calls them, so nothing needs to be defined.
#ifndef TVMFBNET_DEVICE_WHEEL_HEADERS_IO_H_
#define TVMFBNET_DEVICE_WHEEL_HEADERS_IO_H_

#include <cstddef>
#include <string>
#include <vector>

namespace tvm {
namespace support {

class Stream {
 public:
  size_t Read(void* data, size_t size);
  size_t Write(const void* data, size_t size);
  template <typename T>
  void Write(const T& value);
  template <typename T>
  bool Read(T* value);
  template <typename T>
  void WriteArray(const T* values, size_t count);
  template <typename T>
  bool ReadArray(T* values, size_t count);
};

}  // namespace support
}  // namespace tvm

#endif  // TVMFBNET_DEVICE_WHEEL_HEADERS_IO_H_
